"""How a command fails: an exit code that scripts can rely on, and two or three lines that people can act on."""

from enum import IntEnum


class Exit(IntEnum):
    """Stable exit codes of every command."""

    OK = 0
    FAILED = 1
    """The API refused, or the action ended failed or cancelled."""
    USAGE = 2
    UNREACHABLE = 3
    """No node of the cluster gave an answer that can be used."""
    TIMEOUT = 4
    """What was waited for goes on, but ``--timeout`` is over."""
    INTERRUPTED = 130


class Failure(Exception):
    """Ends a command. ``code`` is a stable machine word, ``remedy`` the smallest thing that would help, or empty."""

    def __init__(self, exit_code: Exit, code: str, text: str, *, remedy: str = "", status: int = 0) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.remedy = remedy
        self.status = status
        """HTTP status of the refusal; 0 when no answer was involved."""

    def as_json(self) -> dict[str, object]:
        """The one error shape, as the API writes it."""
        shape: dict[str, object] = {"error_code": self.code, "description": self.text}
        return shape | ({"remedy": self.remedy} if self.remedy else {})

    def as_text(self) -> str:
        lines = [f"error: {self.text} ({self.code})"]
        return "\n".join(lines + ([f"remedy: {self.remedy}"] if self.remedy else []))


def usage(text: str, *, remedy: str = "") -> Failure:
    """The command was not given what it needs."""
    return Failure(Exit.USAGE, "usage", text, remedy=remedy)
