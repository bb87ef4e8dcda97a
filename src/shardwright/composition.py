"""The parts of a daemon that a local cluster and a cluster of machines have in different kinds: made from the configuration.

Called by ``wiring.py`` only. Decides nothing: ``DaemonConfig`` says which kind it is.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import assert_never

from shardwright.agent.cluster_keys import ClusterKeys
from shardwright.agent.endpoint_process import endpoint_command
from shardwright.agent.key_holder import KeyHolder
from shardwright.agent.renewal import CertificateFiles, Renewals
from shardwright.agent.signing import Signing
from shardwright.agent.virtual_addresses import VirtualAddressKeeper
from shardwright.clock import Clock
from shardwright.daemon_config import DaemonConfig
from shardwright.endpoint.config import ControlConfig, text_of
from shardwright.endpoint.credentials import OwnCertificate
from shardwright.endpoint.tls import Context, TlsAddress
from shardwright.errors import ClusterError, Transient
from shardwright.key_file import KeyFile
from shardwright.leader.leadership import ETCD_TIMES, NORMAL_TIMES, LeaseTimes
from shardwright.machine.files import make_private_directory, write_private
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.nodes.cluster_key import ask_for_key
from shardwright.nodes.joined import JoinedNodes
from shardwright.nodes.local import LocalNodes
from shardwright.nodes.paths import control_path
from shardwright.nodes.protocol import Nodes
from shardwright.nodes.remote import NodeAddress, RemoteNodes
from shardwright.nodes.renewal import ask_for_certificate
from shardwright.reconcile.key_rotation import held_by
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.store.seal import ClusterKey
from shardwright.store.settings import EtcdSettings, SqliteSettings, StoreSettings
from shardwright.trust.certificates import LIFETIME
from shardwright.trust.files import MemberFiles
from shardwright.trust.peers import revoked_serials
from shardwright.trust.renewal import RenewalRequest

ENDPOINT_CONFIG = "endpoint.toml"
"""In the directory of the endpoint process, like the next one."""
REVOKED = "revoked"
REMOVED_LOOK_S = 5.0
"""Interval of the look whether a removed node is empty: files go without a change in the store."""


class NodeAccess:
    """How the nodes of a cluster reach each other: over TLS with the certificates of this node, or by Unix sockets alone."""

    def __init__(self, config: DaemonConfig, mirror: Mirror) -> None:
        self._config = config
        self._mirror = mirror
        self._own = None if config.trust is None else OwnCertificate(config.trust.files.member(CertificateRole.NODE))

    @property
    def member_files(self) -> MemberFiles | None:
        """The files with which servers prove themselves to each other; None: their connections are in clear."""
        return None if self._config.trust is None else self._config.trust.files.member(CertificateRole.NODE)

    @property
    def server_context(self) -> Context | None:
        """For connections to servers that encrypt; None: none does."""
        return None if self._own is None else self._own.client

    def nodes(self, clock: Clock, *, term: int = 0) -> Nodes:
        """All nodes, for one user of them. ``term``: of the leadership that uses them; 0: not a leader."""
        here = LocalNodes.of(self._config.run_directory, clock=clock)
        if self._own is None:
            return here
        elsewhere = RemoteNodes(self.address_of, context=self._own.client, revoked=self.revoked, clock=clock, term=term)
        return JoinedNodes(here, elsewhere, is_here=lambda uid: uid == self._config.node_uid)

    def signing(
        self, store: Store, *, clock: Clock, random_text: Callable[[], str], lifetime: timedelta = LIFETIME
    ) -> Signing | None:
        """What renews the certificates of nodes, if this one holds the authority's key; None: a local cluster. ``lifetime``:
        of the certificates."""
        trust = self._config.trust
        if trust is None:
            return None
        return Signing(trust.files, store, mirror=self._mirror, clock=clock, random_text=random_text, lifetime=lifetime)

    def key_holder(self, store: Store, *, clock: Clock, random_text: Callable[[], str]) -> KeyHolder | None:
        """What records whether this node holds the authority's key; None: a local cluster."""
        trust = self._config.trust
        if trust is None:
            return None
        return KeyHolder(
            self._config.node_uid, trust.files, store, mirror=self._mirror, clock=clock, random_text=random_text
        )

    def cluster_keys(
        self, store: Store, *, clock: Clock, random_text: Callable[[], str], reach: Callable[[str], None]
    ) -> ClusterKeys | None:
        """What keeps the cluster keys of this node; None: it has none, or nothing changes them."""
        path = self._config.cluster_key
        if path is None or self._config.sealing.uid is None:
            return None
        return ClusterKeys(
            self._config.node_uid,
            KeyFile(path),
            store,
            mirror=self._mirror,
            fetch=None if self._own is None else self._fetch_key,
            clock=clock,
            random_text=random_text,
            reach=reach,
        )

    async def _fetch_key(self, uid: KeyUid) -> ClusterKey:
        """From the first node that has the key. Raises ClusterError with what each has said."""
        own, view = self._own, self._mirror.view()
        assert own is not None
        said: list[ClusterError] = []
        others = (node for node in view.nodes if node != self._config.node_uid)
        for node in sorted(others, key=lambda node: (uid not in held_by(view, node), node not in view.daemons, node)):
            if (at := self.address_of(node)) is None:
                continue
            try:
                return await ask_for_key(node, at, uid, context=own.client, revoked=self.revoked)
            except ClusterError as e:
                said.append(e)
        text = "; ".join(e.text for e in said) or "there is no other node"
        raise Transient(Code.CLUSTER_KEY_AWAITED, f"no node gives the cluster key {uid}: {text}")

    def virtual_addresses(self, clock: Clock) -> VirtualAddressKeeper | None:
        """What keeps the virtual addresses of this node; None: a local cluster has none."""
        if self._config.trust is None:
            return None
        return VirtualAddressKeeper(self._config.node_uid, mirror=self._mirror, clock=clock)

    def agent_place(self) -> TlsAddress | None:
        """Where the agent accepts daemons of other machines; None: nowhere."""
        trust = self._config.trust
        if trust is None or self._own is None:
            return None
        return TlsAddress(trust.address, trust.agent_port, self._own.server, self.revoked)

    def renewals(self, signing: Signing, *, clock: Clock) -> Renewals | None:
        """What keeps the certificates of this node valid; None: nothing renews those of a local cluster."""
        trust, own = self._config.trust, self._own
        if trust is None or own is None:
            return None

        async def ask(uid: NodeUid, request: RenewalRequest) -> bytes:
            at = self.address_of(uid)
            if at is None:
                raise Transient(Code.AGENT_SILENT, f"no address of node {uid} is known")
            return await ask_for_certificate(uid, at, request, context=own.client, revoked=self.revoked)

        files = CertificateFiles(self._config.node_uid, trust.files)
        return Renewals(files, mirror=self._mirror, signing=signing, ask=ask, clock=clock)

    async def publish_revoked(self) -> None:
        """Eternal task of a cluster of machines: tell the endpoint process, which knows no store, which serials are revoked
        by now."""
        path = self._config.endpoint_directory / REVOKED
        written: list[str] | None = None
        revision = 0
        while True:
            revision = await self._mirror.wait_change(revision)
            if (found := sorted(self.revoked())) != written:
                await asyncio.to_thread(write_private, path, "".join(f"{serial}\n" for serial in found).encode())
                written = found

    async def until_removed(self, has_shards: Callable[[], bool]) -> None:
        """Return when the node has no record any more and nothing of a shard is left on it. ``has_shards``: whether
        something is."""
        revision = 0
        while True:
            revision = await self._mirror.wait_change(revision, REMOVED_LOOK_S)
            view = self._mirror.view()
            if view.cluster is not None and self._config.node_uid not in view.nodes and not has_shards():
                return

    def endpoint_command(self) -> list[str]:
        """The command of the endpoint process. Writes its configuration, if it needs one. Waits for the disk. Raises
        OSError."""
        config = self._config
        control, directory = control_path(config.run_directory, config.node_uid), config.endpoint_directory
        log = directory / "endpoint.log"
        if config.trust is None:
            return endpoint_command(config.node_uid, control, log)
        make_private_directory(directory)
        files = config.trust.files.member(CertificateRole.NODE)
        place = ControlConfig(config.trust.address, files, config.trust.control_port, directory / REVOKED)
        text = text_of(place)
        write_private(directory / ENDPOINT_CONFIG, text.encode())
        return endpoint_command(config.node_uid, control, log, directory / ENDPOINT_CONFIG)

    def address_of(self, uid: NodeUid) -> NodeAddress | None:
        """Where the processes of a node accept others, by its record; None: it has none."""
        node, trust = self._mirror.view().nodes.get(uid), self._config.trust
        if node is None or trust is None:
            return None
        return NodeAddress(node.address, trust.agent_port, trust.control_port)

    def revoked(self) -> Collection[str]:
        """The serials that no peer may show any more, as the store says."""
        view = self._mirror.view()
        return revoked_serials(view.issued_certificates.values(), None if view.cluster is None else view.nodes.keys())


def lease_times(settings: StoreSettings) -> LeaseTimes:
    """The times that fit this kind of store."""
    match settings:
        case SqliteSettings():
            return NORMAL_TIMES
        case EtcdSettings():
            return ETCD_TIMES
        case _:
            assert_never(settings)
