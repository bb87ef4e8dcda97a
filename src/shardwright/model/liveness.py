"""Whether a server's process lives: one answer, made from all that is known, and the only one that permits anything
destructive.

Pure. ``TABLE`` is total; ``docs/reference/liveness.md`` is generated from it. Everything that promotes another copy, deletes
or gives up one, or stops waiting for one, asks here. Knows nothing of groups, moves or actions.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product

from shardwright.model.seen import Health, ProcessSeen, ProcessState, ServerSeen, Sighting


class Silence(StrEnum):
    """Why it is not known whether a process lives."""

    NOT_ASKED = "not_asked"
    """Its server was not asked yet."""
    STARTING = "starting"
    """It refuses connections, and its node's agent has not reported it: it may be about to start, or to be reported."""
    REFUSED = "refused"
    """Its machine refuses connections to its port, but it was reported to run, and its end was not."""
    UNREACHABLE = "unreachable"
    """There is no way to its machine, or the connection broke. That says nothing about the process."""
    NO_ANSWER = "no_answer"
    """It does not answer in time: it is busy, stands still, or the way to it is cut."""


class Proof(StrEnum):
    """Why nothing of a shard's current incarnation can run or acknowledge anything."""

    NOT_STARTED = "not_started"
    """Its node's agent says that it has not started it."""
    START_FAILED = "start_failed"
    """Its node's agent could not start it."""
    REPORTED = "reported"
    """Its node's agent saw it end."""
    SEEN = "seen"
    """It is a process of this machine, and this machine has no such process any more."""
    PORT_CLOSED = "port_closed"
    """Its machine refuses connections to its port, and it was never reported to run on a node that has no daemon now."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Its server answers."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Not known. ``since``: the first question without an answer; None: not asked, or not known."""

    how: Silence
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Certain. ``at``: when its agent saw it end; None: not known."""

    proof: Proof
    at: datetime | None = None

    def __str__(self) -> str:
        return _SAID[self.proof] if self.at is None else f"{_SAID[self.proof]} at {self.at:%H:%M:%S} UTC"


_SAID = {
    Proof.NOT_STARTED: "its agent has not started it",
    Proof.START_FAILED: "it could not be started",
    Proof.REPORTED: "its agent saw it end",
    Proof.SEEN: "its machine has no such process",
    Proof.PORT_CLOSED: "its port is closed and no daemon has reported it",
}
Liveness = Alive | Silent | Ended
Verdict = Silence | Proof | None
"""None: alive."""
Facts = tuple[ProcessState, bool, Health, Sighting]
"""What the node's agent reported, whether the node has a daemon now, what the server answers, this machine's own look."""


def _verdict(report: ProcessState, has_daemon: bool, health: Health, sighting: Sighting) -> Verdict:
    """One cell of the table. An agent's word that a process does not run comes before what a server once answered; an answer
    comes before a sighting, which is older."""
    match report:
        case ProcessState.ABSENT:
            return Proof.NOT_STARTED
        case ProcessState.FAILED:
            return Proof.START_FAILED
        case ProcessState.GONE:
            return Proof.REPORTED
    if health in (Health.OK, Health.LOADING):
        return None
    if report is ProcessState.RUNNING and sighting is Sighting.ENDED:
        return Proof.SEEN
    match health:
        case Health.TIMEOUT:
            return Silence.NO_ANSWER
        case Health.UNREACHABLE:
            return Silence.UNREACHABLE
        case Health.REFUSED if report is ProcessState.RUNNING:
            return Silence.REFUSED
        case Health.REFUSED:
            return Silence.STARTING if has_daemon else Proof.PORT_CLOSED
    return Silence.NOT_ASKED


TABLE: dict[Facts, Verdict] = {facts: _verdict(*facts) for facts in product(ProcessState, (True, False), Health, Sighting)}

_ALIVE = Alive()
_STILL_TO_START = frozenset({Proof.NOT_STARTED, Proof.PORT_CLOSED})


def liveness_of(process: ProcessSeen | None, server: ServerSeen | None, sighting: Sighting, *, has_daemon: bool) -> Liveness:
    """Of a shard's current incarnation. None: nothing was reported, or asked."""
    report = ProcessState.UNKNOWN if process is None else process.state
    health = Health.UNKNOWN if server is None else server.health
    verdict = TABLE[report, has_daemon, health, sighting]
    if verdict is None:
        return _ALIVE
    if isinstance(verdict, Proof):
        return Ended(verdict, None if process is None else process.ended_at)
    return Silent(verdict, None if server is None else server.unanswered_since)


def has_ended(liveness: Liveness) -> bool:
    """Whether nothing of it runs, for certain."""
    return isinstance(liveness, Ended)


def has_ended_after_start(liveness: Liveness) -> bool:
    """Whether it was started, or could not be: only another incarnation can come. Without it a copy may still be started."""
    return isinstance(liveness, Ended) and liveness.proof not in _STILL_TO_START
