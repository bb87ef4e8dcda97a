"""The ``shardwright`` command: combines the command groups. All but ``up``, ``down``, ``cluster move-store``, ``init``,
``join``, ``node leave`` and the processes that they start use the public API only."""

from typing import Annotated

import typer

from shardwright import __version__
from shardwright.cli import action, cluster, database, local, machines, node, status

_HELP = """An open, self-hosted cluster manager for Redis and Valkey.

`up` starts a local cluster, `init` founds one of several machines. --dir DIR (or SHARDWRIGHT_DIR) selects a local cluster;
the user who ran `init` needs no option on that machine; --url, --user, --password-file and --certificate, or the environment
variables SHARDWRIGHT_URL, SHARDWRIGHT_USER, SHARDWRIGHT_PASSWORD_FILE and SHARDWRIGHT_CERTIFICATE, select any other cluster.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the API or the store cannot be reached, 4 --timeout has
passed, 130 interrupted."""


def build() -> typer.Typer:
    """The complete command line."""
    app = typer.Typer(
        name="shardwright",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    local.register(app)
    cluster.register(app)
    machines.register(app)
    for group in (status, database, node, action):
        group.register(app)
    return app


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(__version__)
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the installed command."""
    build()()


if __name__ == "__main__":
    main()
