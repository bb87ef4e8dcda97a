"""The common part of the commands that act on this machine instead of asking the API: their options, their messages, and the
errors that end them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.access import default_directory
from shardwright.cli.failure import Exit, Failure
from shardwright.cli.session import report
from shardwright.errors import ClusterError, Refusal, Rejected, ShardwrightError
from shardwright.model.codes import Code

Directory = Annotated[
    Path | None,
    typer.Option("--dir", envvar="SHARDWRIGHT_DIR", help="Directory of the cluster [default: in your data directory]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead of text.")]

_UNREACHABLE = (Code.API_UNREACHABLE, Code.STORE_UNAVAILABLE)
"""They end a command of the API with the same exit code."""


def directory_of(given: Path | None) -> Path:
    """The directory of a local cluster; None: the default one."""
    return given if given is not None else default_directory(os.environ)


def sayer(as_json: bool) -> Callable[[str], None]:
    """Progress messages: to standard output, or to standard error if standard output is reserved for JSON."""
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


@contextmanager
def failures(as_json: bool) -> Iterator[None]:
    """Report errors of the user and of the environment in two lines with an exit code, never as a traceback."""
    try:
        yield
    except Failure as failure:
        raise _told(failure, as_json) from None
    except ShardwrightError as e:
        raise _told(failure_of(e), as_json) from None
    except OSError as e:
        raise _told(Failure(Exit.FAILED, "system_error", str(e)), as_json) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def failure_of(error: ShardwrightError) -> Failure:
    """The end of a command with this error."""
    match error:
        case Rejected():
            code = Exit.USAGE if error.refusal is Refusal.INVALID else Exit.FAILED
            return Failure(code, error.code, error.text, remedy=error.remedy)
        case ClusterError():
            code = Exit.UNREACHABLE if error.code in _UNREACHABLE else Exit.FAILED
            return Failure(code, error.code, error.text, remedy=_remedy(error))
        case _:
            return Failure(Exit.FAILED, error.code, error.text)


def _remedy(error: ClusterError) -> str:
    """The catalogue's remedy, unless the text says it."""
    remedy = error.code.remedy
    return "" if remedy == "see the text" or remedy in error.text else remedy


def _told(failure: Failure, as_json: bool) -> typer.Exit:
    report(failure, as_json=as_json)
    return typer.Exit(failure.exit_code)
