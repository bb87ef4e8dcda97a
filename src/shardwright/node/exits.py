"""The exit statuses of ``shardwright-node``, and the one line on standard error that goes with them. Imports little."""

import sys

from shardwright.errors import Permanent, Rejected

EXIT_TAKEN = 3
"""Another daemon of this node is running."""
EXIT_SETTINGS = 78
"""EX_CONFIG: only a person can help, so the service manager does not start it again."""


def refusal_line(error: Rejected | Permanent) -> str:
    """Why something cannot be used, with what helps, in one line."""
    remedy = error.remedy if isinstance(error, Rejected) else error.code.remedy
    return " ".join(f"{error.text}: {remedy}".split()) if remedy else error.text


def say_failure(text: str, status: int) -> int:
    """Say why the program ends; returns ``status``."""
    print(f"shardwright-node: {text}", file=sys.stderr)
    return status
