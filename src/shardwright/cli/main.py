"""The ``shardwright`` command: combines the command groups. All but ``up``, ``down``, ``cluster move-store``, ``backup``,
``backups`` and ``restore``, ``init``, ``join``, ``node leave`` and ``follow-restore``, and the processes that they start use
the public API only."""

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from shardwright import __version__

_HELP = """An open, self-hosted cluster manager for Redis and Valkey.

`up` starts a local cluster, `init` founds one of several machines. --dir DIR (or SHARDWRIGHT_DIR) selects a local cluster;
the user who ran `init` needs no option on that machine; --url, --user, --password-file and --certificate, or the environment
variables SHARDWRIGHT_URL, SHARDWRIGHT_USER, SHARDWRIGHT_PASSWORD_FILE and SHARDWRIGHT_CERTIFICATE, select any other cluster.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the API or the store cannot be reached, 4 --timeout has
passed, 130 interrupted."""

_PACKAGE = "shardwright.cli."
_COMMANDS = {
    "local": ("up", "down", "daemon", "supervise"),
    "cluster": ("cluster",),
    "machines": ("init", "join"),
    "status": ("status",),
    "database": ("db",),
    "node": ("node",),
    "action": ("action", "events"),
}
"""The commands that each module registers, in the order of the help text."""


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command line, complete or as far as these words need it: to import all of it takes half a second."""
    app = typer.Typer(
        name="shardwright",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    for module in _modules(words):
        importlib.import_module(_PACKAGE + module).register(app)
    return app


def _modules(words: Sequence[str]) -> list[str]:
    """Those that register the first word. All, if none does: then the help text or the error names every command."""
    command = next((word for word in words if not word.startswith("-")), "")
    return [module for module, commands in _COMMANDS.items() if command in commands] or list(_COMMANDS)


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
    build(sys.argv[1:])()


if __name__ == "__main__":
    main()
