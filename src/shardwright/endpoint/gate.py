"""The state that all connections of one endpoint share: target, hold, settings, limits and counts.

Pure. The process changes it and then notifies every session. Sessions only read it, except for the counts and the budget.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum, auto

from shardwright.endpoint.lease import HOLD_BEFORE_S, NEVER, PROOF_S, LeaseStanding
from shardwright.endpoint.protocol import EndpointSpec, LeaseTerms, Target
from shardwright.endpoint.words import NOT_PLAIN, NOT_PLAIN_WHEN_STRICT


@dataclass(slots=True)
class ByteBudget:
    """Bytes of the commands that all connections of the process keep (held, in flight, incomplete)."""

    limit: int = 256 * 1024 * 1024
    used: int = 0


@dataclass(slots=True)
class Limits:
    """Bounds of one connection, in bytes."""

    kept: int = 8 * 1024 * 1024
    """Commands held or in flight. Above this limit the client is not read."""
    kept_when_scarce: int = 64 * 1024
    """The same limit while the process's budget is exhausted."""
    transaction: int = 1024 * 1024
    """An open MULTI. A larger one cannot be passed to another server or process."""


@dataclass(slots=True)
class Counts:
    """Counts since the start of the process."""

    accepted: int = 0
    commands: int = 0
    held: int = 0
    errors: int = 0
    """The endpoint's own error replies."""
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
    """The effect of a request on the gate."""

    NONE = auto()
    """The request is stale or changes nothing."""
    HELD = auto()
    MOVED = auto()
    """The endpoint forwards to another server, or to the old one again after a hold."""


@dataclass(slots=True)
class Gate:
    """The state of one endpoint. The rule: its target changes only to a higher generation, or back to the old target by a
    release of the hold. Late or stale requests change nothing."""

    spec: EndpointSpec
    limits: Limits = field(default_factory=Limits)
    budget: ByteBudget = field(default_factory=ByteBudget)
    counts: Counts = field(default_factory=Counts)
    target: Target | None = None
    hold: Hold | None = None
    flow: int = 0
    """A number that changes when commands must wait or go to another server. A session compares it with the number that it
    last saw before it sends, so that a hold takes effect without a call to each of thousands of connections."""
    is_alone: bool = False
    """Strict mode: as far as is known, the server has no replica that could confirm a write. Writes wait, and are not
    executed meanwhile (``replica_watch.py``)."""
    standing: LeaseStanding = field(default_factory=LeaseStanding)
    proof_until: float | None = None
    """Replies of the server may be passed on before this time of the boot clock, and not after it; NEVER: there is no proof
    yet. None: no proof is needed."""
    is_unproven: bool = False
    """A proof is needed, and there is none or it is about to end. Commands wait."""
    is_retiring: bool = False
    """The endpoint accepts no more clients here. Each connection ends behind the reply after which nothing is unanswered."""
    hellos: dict[int, bytes] = field(default_factory=dict)
    """The server's latest replies to HELLO, by protocol."""
    not_plain: Container[bytes] = field(init=False)
    """Words of commands that must be processed one by one: a chunk that contains one is not forwarded whole. The data path
    depends on strict mode only through this set."""

    def __post_init__(self) -> None:
        self.target = self.spec.target
        self.apply_settings(self.spec)

    @property
    def is_open(self) -> bool:
        """Whether commands may be forwarded."""
        return self.hold is None and self.target is not None and not self.is_unproven

    @property
    def is_settled(self) -> bool:
        """Whether the target is known and no hold is about to change it."""
        return self.hold is None and self.target is not None

    @property
    def is_leased(self) -> bool:
        """Whether a server that is not the target must not be listened to: it may have been replaced without a proof of its
        end."""
        return self.standing.terms is not None and not self.spec.is_strict

    @property
    def generation(self) -> int:
        """The target's generation; -1: no target yet."""
        return -1 if self.target is None else self.target.generation

    def serve(self, spec: EndpointSpec) -> Change:
        """Apply a new specification. A specification without a target keeps the present target: its caller may be late, and
        the checks of each new server connection are safer."""
        self.apply_settings(spec)
        target = spec.target
        if target is None or target == self.target:
            return Change.NONE
        if self.hold is not None:
            return self._move(target) if target.generation >= self.hold.new.generation else Change.NONE
        if target.generation < self.generation:
            return Change.NONE
        return self._move(target)

    def apply_settings(self, spec: EndpointSpec) -> None:
        """Apply a specification except for its target. Affects all commands that are processed afterwards."""
        self.spec = spec
        if not spec.is_strict:
            self.note_replica()
        self.not_plain = NOT_PLAIN_WHEN_STRICT if spec.is_strict else NOT_PLAIN
        if spec.lease is not None:
            self.standing.apply(spec.lease)
        self._review()

    # -- proofs --------------------------------------------------------------------------------------------------------

    @property
    def asks_for_proof(self) -> bool:
        """Whether the target is to be asked for proofs now."""
        if not self.is_leased or not self.is_settled:
            return False
        return self.standing.is_wanted or self.proof_until is not None

    def tell_lease(self, terms: LeaseTerms) -> None:
        """Apply a lease, unless it is old."""
        if self.standing.apply(terms):
            self._review()

    def prove(self, target: Target, asked_at: float, now: float) -> None:
        """A replica has answered a question to this target. Both times are of the boot clock; the question was asked after
        ``asked_at`` was read."""
        if not is_same_server(target, self.target) or now >= asked_at + PROOF_S - HOLD_BEFORE_S:
            return
        self.standing.end_waiver()
        if self._needs_proof:
            self.proof_until = asked_at + PROOF_S
            self._set_unproven(False)

    def look_at_proof(self, now: float) -> None:
        """Let new commands wait if the proof is about to end."""
        if self.proof_until is not None and now >= self.proof_until - HOLD_BEFORE_S:
            self._set_unproven(True)

    def is_outdated(self, now: float) -> bool:
        """Whether replies of the server must not be passed on."""
        if self.proof_until is None or now < self.proof_until:
            return False
        self._set_unproven(True)
        return True

    def end_waiver(self) -> None:
        """Need proofs from now on, if the leader wants them."""
        if self.standing.end_waiver():
            self._review()

    @property
    def _needs_proof(self) -> bool:
        return self.is_leased and self.target is not None and self.standing.needs_proof(self.generation)

    def _review(self) -> None:
        """Whether a proof is needed, after a change of the lease, the mode or the target."""
        if not self._needs_proof:
            self.proof_until = None
            self._set_unproven(False)
        elif self.proof_until is None:
            self.proof_until = NEVER
            self._set_unproven(True)

    def _set_unproven(self, is_unproven: bool) -> None:
        if self.is_unproven is not is_unproven:
            self.is_unproven = is_unproven
            self.flow += 1

    # -- strict mode ---------------------------------------------------------------------------------------------------

    def note_alone(self) -> None:
        """The server says that it has no replica."""
        if self.spec.is_strict and not self.is_alone:
            self.is_alone = True
            self.flow += 1

    def note_replica(self) -> None:
        """The server has a replica again, or it does not matter any more."""
        if self.is_alone:
            self.is_alone = False
            self.flow += 1

    def retire(self) -> None:
        """Begin to retire. Ended by ``is_retiring = False``."""
        self.is_retiring = True
        self.look_again()

    def look_again(self) -> None:
        """Let connections with a direct way to the server look at the gate, and at themselves, again."""
        self.flow += 1

    def begin_hold(self, old: Target, new: Target, now: float) -> Change:
        """Begin a hold for ``new``. A repetition changes nothing, and does not begin an ended hold again."""
        hold = self.hold
        if new.generation <= (self.generation if hold is None else hold.new.generation):
            return Change.NONE
        self.hold = Hold(old, new, now if hold is None else hold.since)
        self.flow += 1
        return Change.HELD

    def release(self, target: Target) -> Change:
        """Forward to ``target``: the new one, or the old one (an undo); without a hold, only one of a higher generation."""
        hold = self.hold
        if hold is None:
            return self._move(target) if target.generation > self.generation else Change.NONE
        is_undo = target.shard_uid == hold.old.shard_uid and target.generation >= self.generation
        if is_undo or target.generation >= hold.new.generation:
            return self._move(target)
        return Change.NONE

    def precedes_hold(self, target: Target) -> bool:
        """Whether the target is older than the hold's new target, as reported by a process that does not know the hold."""
        return self.hold is not None and target.generation < self.hold.new.generation

    def _move(self, target: Target) -> Change:
        # After a failover the new primary may have no replica. After a handoff, its replicas attach within milliseconds.
        self.is_alone = self.spec.is_strict and self.hold is None and self.target is not None
        if not is_same_server(self.target, target):
            self.proof_until = None
        self.hold = None
        self.target = target
        self.flow += 1
        self._review()
        return Change.MOVED


def is_same_server(a: Target | None, b: Target | None) -> bool:
    """Whether a connection to ``a`` can stay when the target becomes ``b``."""
    if a is None or b is None:
        return a is b
    return (a.address, a.port) == (b.address, b.port) and (not a.run_id or not b.run_id or a.run_id == b.run_id)
