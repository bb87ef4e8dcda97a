"""The agents as a leader hears them: their news, which nodes are away, and which machines have booted since.

Owns the connections for news and the memory of the presence keys; ``presence.py`` judges them. Called by ``observe.py``.
Must not decide about shards and must not write.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta

from shardwright.clock import Clock
from shardwright.errors import Transient
from shardwright.leader import presence
from shardwright.leader.presence import Lasting, Presence
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import (
    ENDED_STATES,
    NodeFigures,
    ProcessIdentity,
    ProcessSeen,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NewsMark, NodeNews, Nodes
from shardwright.store import keys
from shardwright.store.mirror import Mirror
from shardwright.tasks import Polls

SILENT_AFTER = 3
"""An agent that has sent no news for this many idle pauses is silent: the leader asks its servers itself."""
LOOK_S = 0.5
"""How often the presence is judged while time alone may change the judgment."""


def remember(lasting: Lasting, mirror: Mirror, clock: Clock) -> None:
    """Keep a daemon's memory of the presence keys up to date, for as long as its mirror lives."""

    def changed(names: Collection[str]) -> None:
        if any(name.startswith(keys.DAEMONS) for name in names):
            view = mirror.view()
            present, members = view.daemons.keys() & view.nodes.keys(), view.nodes.keys()
            now = clock.monotonic()
            lasting.presence = presence.noted(lasting.presence, present=present, members=members, ended=frozenset(), now=now)

    mirror.subscribe(changed)


class Attendance:
    """See the module's docstring. ``changed`` is called when views must be made again, with whether a decision may come out
    differently. ``take`` receives what an agent says of a server, with the node; ``ask`` has a server asked now. ``known``:
    what this daemon remembers of the presence keys from before it led."""

    def __init__(
        self,
        nodes: Nodes,
        *,
        clock: Clock,
        changed: Callable[[bool], None],
        take: Callable[[NodeUid, ServerSeen], None],
        ask: Callable[[ShardUid], None],
        idle_s: float,
        known: Presence | None = None,
    ) -> None:
        self._nodes = nodes
        self._clock = clock
        self._changed = changed
        self._take = take
        self._ask = ask
        self._idle_s = idle_s
        self._view = ClusterView()
        self._marks: dict[NodeUid, NewsMark] = {}
        self._heard_at: dict[NodeUid, float] = {}
        self._tried: set[NodeUid] = set()
        """Agents that have answered or failed to: of the others nothing is known yet."""
        self._figures: dict[NodeUid, NodeFigures] = {}
        self._told: dict[NodeUid, tuple[ProcessSeen, ...]] = {}
        """Ended processes in the agents' own words."""
        self._daemons: dict[NodeUid, tuple[ProcessIdentity, Sighting]] = {}
        """The daemons that reported, as this machine sees them; only of its own agents that do not answer."""
        self._rebooted: dict[ShardUid, ProcessIdentity] = {}
        """Processes of earlier boots."""
        self._presence = known or Presence()
        self._few_since: float | None = None
        self._was_cut_off = False
        self.away: frozenset[NodeUid] = frozenset()
        """Nodes that are away."""
        self.returning: frozenset[NodeUid] = frozenset()
        """Those of them whose daemon ended a moment ago."""
        self._agents: Polls[NodeUid] = Polls(
            "hear agent of node", self._hear, lambda uid: 0.0 if uid in self._marks else idle_s
        )
        self._judged: Polls[str] = Polls("look at the", self._look_again, lambda _: LOOK_S)

    def follow(self, view: ClusterView) -> None:
        """Hear the agents of these records, and judge who is away."""
        vanished = (self._presence.present or frozenset()) - view.daemons.keys()
        self._view = view
        self._agents.follow(view.nodes)
        for uid in vanished:
            self._agents.poke(uid)
        self._judge()

    async def close(self) -> None:
        """End all questions."""
        await self._judged.close()
        await self._agents.close()

    # -- answers -------------------------------------------------------------------------------------------------------

    def is_heard(self, node_uid: NodeUid) -> bool:
        """Whether the node's agent answers."""
        heard_at = self._heard_at.get(node_uid)
        return heard_at is not None and self._clock.monotonic() - heard_at < SILENT_AFTER * self._idle_s

    def figures_of(self, view: ClusterView) -> dict[NodeUid, NodeFigures]:
        """The latest figures of the nodes."""
        return {uid: found for uid, found in self._figures.items() if uid in view.nodes}

    def processes_of(self, view: ClusterView) -> Mapping[ShardUid, ProcessSeen]:
        """The reports in the records, with the ends that agents have told this leader and the store does not have yet. The
        end of an incarnation is final, so it does not matter which word is later."""
        told = {s.shard_uid: s for uid, processes in self._told.items() for s in processes if _is_news(s, uid, view)}
        return {**view.processes, **told} if told else view.processes

    def has_rebooted(self, uid: ShardUid, identity: ProcessIdentity) -> bool:
        """Whether the machine of this process of a shard has booted since."""
        return self._rebooted.get(uid) == identity

    def is_here(self, node_uid: NodeUid) -> bool:
        """Whether the node is on this machine, by the ids in its daemon's last report. False: unknown."""
        seen = self._view.node_seen.get(node_uid)
        return seen is not None and seen.daemon is not None and self._nodes.link(node_uid).is_here(seen.daemon)

    def storm(self) -> Presence | None:
        """The memory of the presence keys if a storm lasts that this leader has seen."""
        lasts = self._presence.has_storm(self._clock.monotonic()) and bool(self._presence.storm_of)
        return self._presence if lasts else None

    def is_to_yield(self, yielded_at: float | None) -> bool:
        """See ``presence.is_to_yield``."""
        return presence.is_to_yield(self._few_since, yielded_at, self._clock.monotonic())

    # -- news ----------------------------------------------------------------------------------------------------------

    async def _hear(self, node_uid: NodeUid) -> None:
        asked_at, known = self._clock.now(), self._view
        try:
            news = await self._nodes.link(node_uid).news(self._marks.get(node_uid))
        except Transient:
            self._tried.add(node_uid)
            self._marks.pop(node_uid, None)
            if self._heard_at.pop(node_uid, None) is not None:
                # Its node may be gone. Its servers are asked now, not after a silence.
                for shard in self._view.shards_on(node_uid):
                    self._ask(shard.uid)
            await self._look_for_daemon(node_uid)
            self._judge()
            return
        before = self._marks.get(node_uid)
        self._tried.add(node_uid)
        self._marks[node_uid] = news.mark
        is_new = node_uid not in self._heard_at
        self._heard_at[node_uid] = self._clock.monotonic()
        self._daemons.pop(node_uid, None)
        self._note(node_uid, news)
        self._note_boot(node_uid, news, known, is_another=before is None or before.epoch != news.mark.epoch)
        if is_new:
            self._judge()
        answered_at = asked_at + timedelta(seconds=news.waited_s)
        for seen in news.servers:
            # By this leader's clock, and rather too early: the way there and back counts as age.
            self._take(node_uid, replace(seen, at=answered_at - max(timedelta(0), news.at - seen.at)))

    def _note(self, node_uid: NodeUid, news: NodeNews) -> None:
        told = tuple(seen for seen in news.ended if seen.state in ENDED_STATES)
        has_ends, has_figures = self._told.get(node_uid, ()) != told, self._figures.get(node_uid) != news.figures
        self._figures[node_uid], self._told[node_uid] = news.figures, told
        if has_ends or has_figures:
            self._changed(has_ends)

    def _note_boot(self, node_uid: NodeUid, news: NodeNews, known: ClusterView, *, is_another: bool) -> None:
        """Processes that were on record before the question, of the machine whose daemon answers in another boot: their boot
        is over. An answer to an earlier question, or a record, may be older than the process and proves nothing. A machine
        with several nodes speaks for all of them: each shard is compared when another run of an agent answers."""
        daemon = news.daemon
        if daemon is None or not daemon.machine_id:
            return
        uids = known.processes if is_another else [s.uid for s in known.shards_on(node_uid)]
        for uid in uids:
            process = known.processes.get(uid)
            identity = None if process is None or process.state is not ProcessState.RUNNING else process.identity
            if identity is None or identity.machine_id != daemon.machine_id or identity.boot_id == daemon.boot_id:
                continue
            if self._rebooted.get(uid) != identity:
                self._rebooted[uid] = identity
                self._ask(uid)

    async def _look_for_daemon(self, node_uid: NodeUid) -> None:
        """Of an agent that does not answer: whether this machine has its process. Another machine is not asked: if anything
        answers there, it is the next daemon."""
        seen = self._view.node_seen.get(node_uid)
        if seen is None or seen.daemon is None or not self.is_here(node_uid):
            self._daemons.pop(node_uid, None)
            return
        look = await self._nodes.link(node_uid).look(seen.daemon)
        self._daemons[node_uid] = (seen.daemon, look.sighting)

    # -- presence ------------------------------------------------------------------------------------------------------

    async def _look_again(self, _: str) -> None:
        self._judge()

    def _judge(self) -> None:
        view, now = self._view, self._clock.monotonic()
        present = view.daemons.keys() & view.nodes.keys()
        ended = {uid for uid in view.nodes.keys() - present if self._has_ended(uid)}
        before = self._presence
        self._presence = presence.noted(before, present=present, members=view.nodes.keys(), ended=ended, now=now)
        answering = {uid for uid in view.nodes if self.is_heard(uid)}
        away = presence.away(self._presence, answering=answering | (view.nodes.keys() - self._tried), ended=ended, now=now)
        own = None if view.leadership is None else view.leadership.node_uid
        few = presence.reaches_few(own=own, present=present, answering=answering)
        self._few_since = (now if self._few_since is None else self._few_since) if few else None
        returning = presence.returning(self._presence, away, now)
        is_unsure = few or bool(returning) or any(uid not in away for uid in self._presence.absent_since)
        self._judged.follow(["presence"] if is_unsure else [])
        was_cut_off, self._was_cut_off = self._was_cut_off, self.is_to_yield(None)
        has_changed = (away, returning) != (self.away, self.returning) or self._presence.storm_at != before.storm_at
        self.away, self.returning = away, returning
        if has_changed or (self._was_cut_off and not was_cut_off):
            self._changed(True)

    def _has_ended(self, node_uid: NodeUid) -> bool:
        """Whether the daemon that reported last has certainly ended: this machine has no such process."""
        seen, found = self._view.node_seen.get(node_uid), self._daemons.get(node_uid)
        is_of_it = seen is not None and found is not None and seen.daemon == found[0]
        return is_of_it and found is not None and found[1] in (Sighting.ENDED, Sighting.REBOOTED)


def _is_news(seen: ProcessSeen, node_uid: NodeUid, view: ClusterView) -> bool:
    """Whether an agent's word about a shard adds to the records."""
    shard, known = view.shards.get(seen.shard_uid), view.processes.get(seen.shard_uid)
    if shard is None or shard.node_uid != node_uid or shard.incarnation != seen.incarnation:
        return False
    return known is None or known.state not in ENDED_STATES
