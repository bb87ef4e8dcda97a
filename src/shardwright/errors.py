"""The errors of Shardwright: one class per reaction.

    ShardwrightError
    ├── Rejected           tell the caller, change nothing
    └── ClusterError       its code is in model/codes.py
        ├── Transient      try again on a later turn, capped
        ├── Permanent      what was tried fails with a reason
        ├── OutcomeUnknown observe before any retry: it may have happened
        └── LostLeadership stop writing at once

Whether a failure passes is decided where its cause is known. Foreign errors are wrapped with node, shard, address and
command. HTTP status codes are given in ``api/errors.py`` and nowhere else.
"""

from enum import StrEnum

from shardwright.model.codes import Code


class ShardwrightError(Exception):
    """Base of all. ``code`` is a stable machine code, the text is a sentence for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Refusal(StrEnum):
    """Why a request is rejected."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    NOT_ACCEPTABLE = "not_acceptable"
    """Well-formed, but this configuration cannot be had."""
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"


class Rejected(ShardwrightError):
    """Nothing was changed. ``remedy`` says the smallest thing that would help; may be empty."""

    def __init__(self, refusal: Refusal, code: str, text: str, *, remedy: str = "") -> None:
        super().__init__(code, text)
        self.refusal = refusal
        self.remedy = remedy


class ClusterError(ShardwrightError):
    """Something went wrong inside the cluster. Its code is one of the catalogue's."""

    code: Code

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(code, text)


class Transient(ClusterError):
    """It may succeed later."""


class Permanent(ClusterError):
    """It will not succeed by trying again."""


class OutcomeUnknown(ClusterError):
    """Sent, but no answer came: it may or may not have happened."""


class LostLeadership(ClusterError):
    """The term is over."""

    def __init__(self, text: str = "another daemon leads, or none does") -> None:
        super().__init__(Code.LOST_LEADERSHIP, text)
