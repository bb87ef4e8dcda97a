"""Liveness of a server's process: one judgment from all known facts. Only this judgment permits destructive decisions.

Pure. ``TABLE`` is total; ``docs/reference/liveness.md`` is generated from it. Every decision that promotes another copy,
deletes or gives up a copy, or stops waiting for one, asks here. Does not know groups, moves or actions.

Silence is never a proof, and neither is a refused connection to another machine: its host or a firewall before it may have
refused, the address may have moved to another host, and a daemon there that reaches neither the store nor the leader may be
about to start the process.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product

from shardwright.model.seen import Health, ProcessSeen, ProcessState, ServerSeen, Sighting


class Silence(StrEnum):
    """Why the liveness of a process is unknown."""

    NOT_ASKED = "not_asked"
    """Its server has not been probed yet."""
    STARTING = "starting"
    """It refuses connections, and its node's agent has not reported it: its start or the report may be imminent."""
    REFUSED = "refused"
    """Connections to its port are refused, but the agent reported it running, and has not reported its end."""
    UNREACHABLE = "unreachable"
    """Its machine has no route, or the connection broke. That proves nothing about the process."""
    NO_ANSWER = "no_answer"
    """It does not answer in time: it is busy, it hangs, or the network path is cut."""


class Proof(StrEnum):
    """Why no process of a shard's current incarnation can run or acknowledge a write."""

    NOT_STARTED = "not_started"
    """Its node's agent reports that it has not started it."""
    START_FAILED = "start_failed"
    """Its node's agent could not start it."""
    REPORTED = "reported"
    """Its node's agent observed its end."""
    SEEN = "seen"
    """It belonged to this machine, and this machine no longer has such a process."""
    REBOOTED = "rebooted"
    """Its machine has booted since it was reported running."""
    DECLARED_OFF = "declared_off"
    """Its machine was declared off, and the node is away."""
    OFF_UNREPORTED = "off_unreported"
    """The same, but no agent ever reported it running: it may still be started when the machine is back."""
    PORT_CLOSED = "port_closed"
    """Its node is on this machine, which refuses connections to its port; no agent ever reported it running, and its node
    has no daemon now."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Its server answers."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Unknown. ``since``: time of the first unanswered probe; None: not probed, or unknown."""

    how: Silence
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Certain. ``at``: when its agent observed its end; None: unknown."""

    proof: Proof
    at: datetime | None = None

    def __str__(self) -> str:
        return _SAID[self.proof] if self.at is None else f"{_SAID[self.proof]} at {self.at:%H:%M:%S} UTC"


_SAID = {
    Proof.NOT_STARTED: "its agent has not started it",
    Proof.START_FAILED: "it could not be started",
    Proof.REPORTED: "its agent observed its end",
    Proof.SEEN: "its machine has no such process",
    Proof.REBOOTED: "its machine has booted since",
    Proof.DECLARED_OFF: "its machine was declared off",
    Proof.OFF_UNREPORTED: "its machine was declared off before it was reported running",
    Proof.PORT_CLOSED: "its port is closed and no daemon has reported it",
}
Liveness = Alive | Silent | Ended
Verdict = Silence | Proof | None
"""None: alive."""
Facts = tuple[ProcessState, bool, Health, Sighting]
"""The agent's report, whether the node has a daemon (False: it is away), the server's answer, and what the machine of the
process says."""


def _verdict(report: ProcessState, has_daemon: bool, health: Health, sighting: Sighting) -> Verdict:
    """One cell of the table. An agent's report of an ended process overrides an earlier answer of the server; an answer
    overrides a sighting, which is older. An incarnation starts at most once, so a report of its end is final, whichever boot
    it is from. The report that a process was not started yet proves nothing if the server answers or the agent is away: an
    agent that dies between the start and its next report leaves that report behind. That a machine is off is someone's word:
    a daemon of the node refutes it, and its servers are asked first."""
    is_answering = health in (Health.OK, Health.LOADING)
    match report:
        case ProcessState.ABSENT if has_daemon and not is_answering:
            return Proof.NOT_STARTED
        case ProcessState.FAILED:
            return Proof.START_FAILED
        case ProcessState.GONE:
            return Proof.REPORTED
    if is_answering:
        return None
    if report is ProcessState.RUNNING and sighting in _SIGHTED:
        return _SIGHTED[sighting]
    if sighting is Sighting.OFF and not has_daemon and health is not Health.UNKNOWN:
        return Proof.DECLARED_OFF if report is ProcessState.RUNNING else Proof.OFF_UNREPORTED
    match health:
        case Health.TIMEOUT:
            return Silence.NO_ANSWER
        case Health.UNREACHABLE:
            return Silence.UNREACHABLE
        case Health.REFUSED if report is ProcessState.RUNNING:
            return Silence.REFUSED
        case Health.REFUSED if sighting is Sighting.HERE and not has_daemon:
            return Proof.PORT_CLOSED
        case Health.REFUSED:
            return Silence.STARTING
    return Silence.NOT_ASKED


_SIGHTED = {Sighting.ENDED: Proof.SEEN, Sighting.REBOOTED: Proof.REBOOTED}
TABLE: dict[Facts, Verdict] = {facts: _verdict(*facts) for facts in product(ProcessState, (True, False), Health, Sighting)}

_ALIVE = Alive()
_STILL_TO_START = frozenset({Proof.NOT_STARTED, Proof.PORT_CLOSED, Proof.OFF_UNREPORTED})


def liveness_of(process: ProcessSeen | None, server: ServerSeen | None, sighting: Sighting, *, has_daemon: bool) -> Liveness:
    """The liveness of a shard's current incarnation. None: no report, or no probe."""
    report = ProcessState.UNKNOWN if process is None else process.state
    health = Health.UNKNOWN if server is None else server.health
    verdict = TABLE[report, has_daemon, health, sighting]
    if verdict is None:
        return _ALIVE
    if isinstance(verdict, Proof):
        return Ended(verdict, None if process is None else process.ended_at)
    return Silent(verdict, None if server is None else server.unanswered_since)


def is_alive(liveness: Liveness) -> bool:
    """Whether its server answers. The agent may not have reported its start: it may have died before."""
    return isinstance(liveness, Alive)


def has_ended(liveness: Liveness) -> bool:
    """Whether nothing of it runs, with certainty."""
    return isinstance(liveness, Ended)


def has_ended_after_start(liveness: Liveness) -> bool:
    """Whether it ended after a start, or could not be started: only another incarnation can follow. Otherwise the copy may
    still start."""
    return isinstance(liveness, Ended) and liveness.proof not in _STILL_TO_START
