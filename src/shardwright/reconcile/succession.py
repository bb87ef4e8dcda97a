"""Succession: which copy becomes the primary of a slot group. Three tables, each with a reason for every row.

``group.py`` asks ``FAILOVER`` when the primary of a serving group has ended. ``start.py`` asks ``COMPARISON`` and ``START``
while a group starts. They state the facts and carry out the answer; ``docs/reference/succession.md`` is generated from the
tables. The invariants: a serving primary is replaced only if its process has certainly ended; an empty copy never becomes
the source of a copy with data.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Generic, TypeVar

Facts = TypeVar("Facts")
Does = TypeVar("Does", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Rule(Generic[Facts, Does]):
    """A row. A fact that is None in ``when`` matches everything."""

    when: Facts
    does: Does
    why: str

    def matches(self, facts: Facts) -> bool:
        """Whether the row applies to these facts."""
        expected = ((getattr(self.when, f.name), getattr(facts, f.name)) for f in fields(self.when))  # type: ignore[arg-type]
        return all(want is None or want == found for want, found in expected)


@dataclass(frozen=True, slots=True)
class Table(Generic[Facts, Does]):
    """Rows in order: the first that matches applies. The last row matches everything."""

    title: str
    columns: tuple[str, ...]
    """Headings of the facts, in the order of their fields."""
    rules: tuple[Rule[Facts, Does], ...]

    def rule(self, facts: Facts) -> Rule[Facts, Does]:
        """The row that applies to these facts."""
        return next(rule for rule in self.rules if rule.matches(facts))

    def rows(self) -> list[tuple[str, ...]]:
        """Every row as text: the facts, the answer, the reason."""
        return [(*map(_text, _values(rule.when)), rule.does, rule.why) for rule in self.rules]


def _values(facts: Any) -> list[object]:
    return [getattr(facts, f.name) for f in fields(facts)]


def _text(fact: object) -> str:
    return {None: "any", True: "yes", False: "no"}.get(fact) or str(fact)  # type: ignore[call-overload]


# -- a serving group whose primary has ended ---------------------------------------------------------------------------


class Heir(StrEnum):
    """The best live replica."""

    IN_SYNC = "in sync"
    """It has the in-sync mark of this generation, and its link lasted until the primary's end."""
    FOLLOWER = "follower"
    """It has no mark, but it holds the primary's data set: no leader observed both of them."""
    NONE = "none"


class Failover(StrEnum):
    """The next step for a serving group whose primary has ended."""

    OBSERVE = "observe the replicas"
    WAIT_FOR_OFFSETS = "wait for the offsets"
    PROMOTE = "promote"
    """The replica with the highest offset in the history of the best live replica takes over."""
    WAIT_FOR_REPLICA = "wait for the replica"
    START_OVER = "start over"


@dataclass(frozen=True, slots=True)
class FailoverFacts:
    """What is known of the replicas."""

    is_observed: bool | None = None
    """Every live replica was observed after the primary's end was recorded."""
    is_strict: bool | None = None
    is_final: bool | None = None
    """In strict mode: if there are several candidates, all of their offsets are known and can no longer grow."""
    heir: Heir | None = None
    has_silent: bool | None = None
    """A replica that was in sync does not answer, and its end is not certain."""
    is_node_dead: bool | None = None
    """The primary's node has no daemon."""


FAILOVER = Table(
    "The primary of a serving slot group has ended",
    ("replicas observed", "strict mode", "offsets final", "best live replica", "silent in-sync replica", "node dead"),
    (
        Rule(FailoverFacts(is_observed=False), Failover.OBSERVE,
             "a replica that ended before its primary lacks writes that were acknowledged without it"),
        Rule(FailoverFacts(is_strict=True, is_final=False), Failover.WAIT_FOR_OFFSETS,
             "any replica may have confirmed a write: the one with the highest offset is not known yet"),
        Rule(FailoverFacts(heir=Heir.IN_SYNC), Failover.PROMOTE,
             "it holds all acknowledged writes"),
        Rule(FailoverFacts(is_strict=True, heir=Heir.FOLLOWER), Failover.PROMOTE,
             "every acknowledged write is on a replica, and this one has the highest offset"),
        Rule(FailoverFacts(has_silent=True), Failover.WAIT_FOR_REPLICA,
             "the silent replica may hold writes that no other copy has"),
        Rule(FailoverFacts(heir=Heir.FOLLOWER, is_node_dead=True), Failover.PROMOTE,
             "no agent can restart the primary, and the replica holds its data set"),
        Rule(FailoverFacts(), Failover.START_OVER,
             "no live replica certainly holds all acknowledged writes: the copies are started and compared"),
    ),
)  # fmt: skip


# -- the comparison of the copies of a starting group ------------------------------------------------------------------


class Committed(StrEnum):
    """The committed primary after its start."""

    NONE = "none"
    """The group has no primary yet, or the primary kept no file and its node is dead."""
    FILLED = "holds data"
    EMPTY = "is empty"
    AWAITED = "does not answer yet"
    LOST = "cannot be started"
    """Its files are damaged, or it failed to start several times in a row."""


class Choice(StrEnum):
    """The copy that the comparison chooses."""

    AHEAD = "the copy that holds more"
    COMMITTED = "the committed primary"
    BEST = "the best copy with data"
    """The in-sync mark of this generation counts first, then the history of its primary, then older marks, then offsets."""
    FIRST = "the first copy"
    IN_SYNC = "the best copy in sync"
    WAIT_FOR_COPIES = "none: wait for the copies"
    WAIT = "none: wait"


@dataclass(frozen=True, slots=True)
class ComparisonFacts:
    """What the copies hold."""

    committed: Committed | None = None
    is_exceeded: bool | None = None
    """Another copy certainly holds all of the committed primary's data, and more."""
    has_silent: bool | None = None
    """In strict mode: the primary loaded a snapshot, no replica was in sync with it in its generation, and a copy that was
    in sync in the one before, or led it, does not answer and has not certainly ended."""
    has_pending: bool | None = None
    """A copy does not answer yet, and its start has not failed."""
    has_data: bool | None = None
    """Another copy answers and holds data."""
    has_in_sync: bool | None = None
    """Such a copy was in sync with the committed primary in this generation."""
    has_copy: bool | None = None
    """Another copy answers, empty or not."""


COMPARISON = Table(
    "The copies of a starting slot group are compared",
    ("committed primary", "another holds more", "silent copy may", "copies pending", "another has data", "and was in sync",
     "another answers"),
    (
        Rule(ComparisonFacts(Committed.FILLED, is_exceeded=True), Choice.AHEAD,
             "the primary has loaded an older file, and that copy certainly holds all of its data and more"),
        Rule(ComparisonFacts(Committed.FILLED, has_silent=True), Choice.WAIT_FOR_COPIES,
             "the silent copy holds all writes that were acknowledged before, and none has been acknowledged since"),
        Rule(ComparisonFacts(Committed.FILLED), Choice.COMMITTED,
             "it holds all acknowledged writes that its files kept"),
        Rule(ComparisonFacts(Committed.EMPTY, has_pending=True), Choice.WAIT_FOR_COPIES,
             "a pending copy may hold the only data"),
        Rule(ComparisonFacts(Committed.NONE, has_pending=True), Choice.WAIT_FOR_COPIES,
             "a pending copy may hold the only data"),
        Rule(ComparisonFacts(Committed.EMPTY, has_data=True), Choice.BEST,
             "an empty copy never becomes the source of a copy with data"),
        Rule(ComparisonFacts(Committed.NONE, has_data=True), Choice.BEST,
             "there is no committed primary that could hold more"),
        Rule(ComparisonFacts(Committed.EMPTY), Choice.COMMITTED,
             "all copies are empty"),
        Rule(ComparisonFacts(Committed.NONE, has_copy=True), Choice.FIRST,
             "all copies are empty, and none is the committed primary"),
        Rule(ComparisonFacts(Committed.LOST, has_in_sync=True), Choice.IN_SYNC,
             "the primary is unlikely to start, and that copy was in sync with it"),
        Rule(ComparisonFacts(), Choice.WAIT,
             "the copy that does not answer may hold writes that no other copy has"),
    ),
)  # fmt: skip


# -- a starting group --------------------------------------------------------------------------------------------------


class Chosen(StrEnum):
    """The result of the comparison."""

    NONE = "none"
    TOLD = "the operator's"
    """The same copy that an operator has chosen."""
    OTHER = "another"


class Start(StrEnum):
    """The next step for a starting group."""

    TAKE_BACK = "start the copies that were set aside"
    FAIL_OVER = "promote the surviving replica"
    OBEY = "continue with the operator's copy"
    AWAIT_REPORT = "wait for the report of what was cut"
    FAIL_OVER_STRICT = "promote the replica with the complete file"
    WAIT = "wait"
    OPEN = "open the chosen copy"


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What the group can continue with."""

    has_kept: bool | None = None
    """A move has set aside copies that may hold the only files."""
    chosen: Chosen | None = None
    has_survivor: bool | None = None
    """The committed primary's node is dead, and a live replica holds its data set. No other copy is silent."""
    is_told: bool | None = None
    """An operator has chosen a copy, and it answers."""
    is_cut_reported: bool | None = None
    """The agent of the operator's copy has reported what was cut from its file. Also true if nothing was to be cut, and if
    the agent is dead."""
    has_strict_heir: bool | None = None
    """In strict mode: the primary does not come back, and the only replica's file holds every acknowledged write."""


START = Table(
    "A slot group starts",
    ("copies set aside", "compared: chosen", "surviving replica", "operator's copy answers", "its cut is reported",
     "strict mode: complete file"),
    (
        Rule(StartFacts(has_kept=True), Start.TAKE_BACK,
             "their files may be the only ones: they are compared too"),
        Rule(StartFacts(chosen=Chosen.NONE, has_survivor=True), Start.FAIL_OVER,
             "no agent can restart the primary, and the replica holds its data set"),
        Rule(StartFacts(chosen=Chosen.NONE, is_told=True, is_cut_reported=False), Start.AWAIT_REPORT,
             "the event of the start names what was cut, and the agent is about to report it"),
        Rule(StartFacts(chosen=Chosen.TOLD, is_told=True, is_cut_reported=False), Start.AWAIT_REPORT,
             "the same, although the comparison agrees with the operator"),
        Rule(StartFacts(chosen=Chosen.NONE, is_told=True), Start.OBEY,
             "an operator has decided to continue without the missing copies"),
        Rule(StartFacts(chosen=Chosen.TOLD, is_told=True), Start.OBEY,
             "the comparison agrees with the operator"),
        Rule(StartFacts(chosen=Chosen.NONE, has_strict_heir=True), Start.FAIL_OVER_STRICT,
             "every write was synced before it was acknowledged"),
        Rule(StartFacts(chosen=Chosen.NONE), Start.WAIT,
             "a missing copy may hold the only data: ended copies are restarted, and lasting obstacles are recorded"),
        Rule(StartFacts(), Start.OPEN,
             "the comparison has chosen it"),
    ),
)  # fmt: skip

TABLES: tuple[Table[Any, Any], ...] = (FAILOVER, COMPARISON, START)
