"""What all connections of one endpoint share: where commands go, whether they may go now, passwords, limits and counts.

Pure. The process changes it and then tells every session; sessions only read it, except for the counts and the budget.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum, auto

from shardwright.endpoint.protocol import EndpointSpec, Target
from shardwright.endpoint.words import NOT_PLAIN, NOT_PLAIN_WHEN_STRICT


@dataclass(slots=True)
class Budget:
    """Bytes of commands that all connections of the process keep (held, in flight, incomplete)."""

    limit: int = 256 * 1024 * 1024
    used: int = 0


@dataclass(slots=True)
class Limits:
    """Bounds of one connection, in bytes."""

    kept: int = 8 * 1024 * 1024
    """Commands held or in flight: above it the client is not read."""
    kept_when_scarce: int = 64 * 1024
    """The same while the process's budget is used up."""
    transaction: int = 1024 * 1024
    """An open MULTI above it cannot be moved."""


@dataclass(slots=True)
class Counts:
    """Since the process started."""

    accepted: int = 0
    commands: int = 0
    held: int = 0
    errors: int = 0
    """Error replies of our own making."""
    bytes_in: int = 0
    bytes_out: int = 0
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """A handoff in progress."""

    old: Target
    new: Target
    since: float
    """Monotonic seconds."""


class Change(Enum):
    """What a request did to the gate."""

    NONE = auto()
    """Stale, or nothing new."""
    HELD = auto()
    MOVED = auto()
    """Forwards to another server, or again to the old one after a hold."""


@dataclass(slots=True)
class Gate:
    """One endpoint's state. The rule: a target moves to a higher generation only, or back to the old one by a release of its
    hold. What is late or stale changes nothing."""

    spec: EndpointSpec
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    counts: Counts = field(default_factory=Counts)
    target: Target | None = None
    hold: Hold | None = None
    flow: int = 0
    """Changes whenever commands have to wait or to go elsewhere. Who was told under another number asks again before it
    sends, so that a hold need not touch each of thousands of connections to take effect."""
    hellos: dict[int, bytes] = field(default_factory=dict)
    """The server's own replies to HELLO by protocol, as first seen."""
    not_plain: Container[bytes] = field(init=False)
    """Words that keep a chunk of commands from being forwarded whole. The data path asks for nothing else of the mode."""

    def __post_init__(self) -> None:
        self.target = self.spec.target
        self.take_settings(self.spec)

    @property
    def is_open(self) -> bool:
        """Commands may be forwarded."""
        return self.hold is None and self.target is not None

    @property
    def generation(self) -> int:
        """Of the target; -1: none yet."""
        return -1 if self.target is None else self.target.generation

    def serve(self, spec: EndpointSpec) -> Change:
        """Take a new specification. No target in it takes none away: the checks on each new connection protect better than
        the word of a caller that may be late."""
        self.take_settings(spec)
        target = spec.target
        if target is None or target == self.target:
            return Change.NONE
        if self.hold is not None:
            return self._move(target) if target.generation >= self.hold.new.generation else Change.NONE
        if target.generation < self.generation:
            return Change.NONE
        return self._move(target)

    def take_settings(self, spec: EndpointSpec) -> None:
        """Take all of a specification but its target. Holds for every command that is processed from now on."""
        self.spec = spec
        self.not_plain = NOT_PLAIN_WHEN_STRICT if spec.is_strict else NOT_PLAIN

    def begin_hold(self, old: Target, new: Target, now: float) -> Change:
        """Hold for ``new``; repeating it changes nothing, and a hold that is over does not come back."""
        hold = self.hold
        if new.generation <= (self.generation if hold is None else hold.new.generation):
            return Change.NONE
        self.hold = Hold(old, new, now if hold is None else hold.since)
        self.flow += 1
        return Change.HELD

    def release(self, target: Target) -> Change:
        """Forward to ``target``: the new one, the old one (an undo), or without a hold one of a higher generation."""
        hold = self.hold
        if hold is None:
            return self._move(target) if target.generation > self.generation else Change.NONE
        is_undo = target.shard_uid == hold.old.shard_uid and target.generation >= self.generation
        if is_undo or target.generation >= hold.new.generation:
            return self._move(target)
        return Change.NONE

    def is_behind_hold(self, target: Target) -> bool:
        """Whether it is what the hold leads away from: another process that does not know better says so."""
        return self.hold is not None and target.generation < self.hold.new.generation

    def _move(self, target: Target) -> Change:
        self.hold = None
        self.target = target
        self.flow += 1
        return Change.MOVED


def is_same_server(a: Target | None, b: Target | None) -> bool:
    """A connection to ``a`` need not be left when the target is now ``b``."""
    if a is None or b is None:
        return a is b
    return (a.address, a.port) == (b.address, b.port) and (not a.run_id or not b.run_id or a.run_id == b.run_id)
