"""Failures of commands: a stable exit code for scripts, and two or three lines of text for people."""

from enum import IntEnum


class Exit(IntEnum):
    """Stable exit codes of every command."""

    OK = 0
    FAILED = 1
    """The API refused, or the action ended failed or cancelled."""
    USAGE = 2
    UNREACHABLE = 3
    """No node of the cluster gave a usable answer, or the store gave none."""
    TIMEOUT = 4
    """``--timeout`` has passed; the operation continues."""
    INTERRUPTED = 130
    """By Ctrl-C; an action that was started continues."""


class Failure(Exception):
    """Ends a command. ``code`` is a stable machine word, ``remedy`` the smallest remedy, or empty."""

    def __init__(self, exit_code: Exit, code: str, text: str, *, remedy: str = "", status: int = 0) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.remedy = remedy
        self.status = status
        """HTTP status of the refusal; 0 without an answer."""

    def as_json(self) -> dict[str, object]:
        """The common error format of the API."""
        shape: dict[str, object] = {"error_code": self.code, "description": self.text}
        return shape | ({"remedy": self.remedy} if self.remedy else {})

    def as_text(self) -> str:
        lines = [f"error: {self.text} ({self.code})"]
        return "\n".join(lines + ([f"remedy: {self.remedy}"] if self.remedy else []))


def usage(text: str, *, remedy: str = "") -> Failure:
    """Wrong usage: a value is missing or invalid."""
    return Failure(Exit.USAGE, "usage", text, remedy=remedy)
