"""The common part of all commands: options that select the cluster, ``--json``, and the end of the process after a failure.

``command`` turns a function of (session, its own options) into a command that also has the common options, so that they may
follow the command's name.
"""

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.cli.access import Access, Wanted, load_access
from shardwright.cli.client import ApiClient
from shardwright.cli.failure import Exit, Failure, usage

Body = Callable[..., None]
"""A function of a Session and the command's own options."""
Find = Callable[[Wanted, Mapping[str, Any]], Access]
"""Finds the cluster by the common options and the command's own. Raises Failure."""


def _usual(wanted: Wanted, own: Mapping[str, Any]) -> Access:
    return load_access(wanted, os.environ)


def _common(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", envvar="SHARDWRIGHT_DIR", help="Directory of a local cluster."),
    ] = None,
    url: Annotated[str | None, typer.Option(envvar="SHARDWRIGHT_URL", help="API address of any node.")] = None,
    user: Annotated[str | None, typer.Option(envvar="SHARDWRIGHT_USER", help="E-mail address of the user.")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SHARDWRIGHT_PASSWORD_FILE",
            help="File whose first line is the user's password; -: standard input.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="SHARDWRIGHT_CERTIFICATE",
            help="Certificate to trust; a local cluster's own is in its directory.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON instead of text.")] = False,
) -> None:
    """Never called: its parameters are the common options."""


_SHARED = tuple(inspect.signature(_common).parameters.values())


@dataclass(frozen=True, slots=True)
class CommandSession:
    """One run of a command."""

    api: ApiClient
    as_json: bool

    def show(self, answer: object, text: Callable[[], str]) -> None:
        """Print the API's answer, or its text form from ``text``."""
        print(json.dumps(answer, indent=2) if self.as_json else text(), flush=True)

    def say(self, text: str) -> None:
        """Print a sentence for people; nothing with ``--json``."""
        if not self.as_json:
            print(text, flush=True)


def command(app: typer.Typer, name: str, *, examples: str = "", find: Find = _usual) -> Callable[[Body], Body]:
    """Register a function as the command ``name``. Its docstring is the help text, followed by ``examples``. ``find``: says
    which cluster it speaks to."""

    def register(body: Body) -> Body:
        own = tuple(inspect.signature(body, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> None:
            shared = {parameter.name: given.pop(parameter.name) for parameter in _SHARED}
            as_json = bool(shared.pop("as_json"))
            try:
                with ApiClient(find(Wanted(**shared), given)) as api:
                    body(CommandSession(api, as_json), **given)
            except Failure as failure:
                report(failure, as_json=as_json)
                raise typer.Exit(failure.exit_code) from None
            except KeyboardInterrupt:
                raise typer.Exit(Exit.INTERRUPTED) from None

        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_SHARED)]
        setattr(run, "__signature__", inspect.Signature(keyword_only))  # noqa: B010  # a plain assignment is a type error
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
        run.__doc__ = inspect.getdoc(body)
        app.command(name, epilog=_epilog(examples))(run)
        return run

    return register


def _epilog(examples: str) -> str | None:
    lines = [line.strip() for line in examples.strip().splitlines()]
    # The backspace keeps the formatter from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None


def report(failure: Failure, *, as_json: bool) -> None:
    """Report on standard error why the command ends."""
    print(json.dumps(failure.as_json()) if as_json else failure.as_text(), file=sys.stderr, flush=True)


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask before a deletion. Raises Failure if the answer is no, or if there is no terminal."""
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise usage(f"{question} This needs a confirmation, and there is no terminal.", remedy="confirm with --yes")
    if not typer.confirm(question, err=True):
        raise Failure(Exit.FAILED, "not_confirmed", "nothing was done")


def parsed(parse: Callable[[str], Any], text: str | None) -> Any:
    """An option's parsed text; None stays None. Raises Failure (usage) with the parser's sentence."""
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise usage(str(error)) from None


Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="With --wait: stop waiting after this time, such as 10m.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end and show the progress.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Number of a node, such as 3 or node:3.")]


def node_uid(text: str) -> int:
    """The number in ``3`` or ``node:3``. Raises Failure (usage)."""
    digits = text.removeprefix("node:")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise usage(f"{text!r} is not a node", remedy="shardwright node list shows their numbers")
    return int(digits)
