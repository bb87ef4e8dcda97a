"""The facts of this machine for a check of the nodes, and this machine's attempts to reach the others.

Called by the agent's answers. Opens listeners for a few seconds and writes one small file, which it deletes; changes nothing
else. Judges nothing: ``plan/node_check.py`` does.
"""

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path

from cryptography import x509

from shardwright import __version__
from shardwright.clock import Clock
from shardwright.machine.capabilities import may_move_addresses
from shardwright.model.check import CertificateEnd, EtcdFacts, NodeFacts, PortLook, PortOffer, PortUse, Reach
from shardwright.model.ids import NodeUid
from shardwright.model.serving import own_address
from shardwright.model.view import ClusterView
from shardwright.server.binaries import all_servers
from shardwright.store.etcd_identity import is_suitable

SYNCS = 200
SYNC_BYTES = 512
SYNC_TIME_S = 1.0
"""A slow disk is recognized with fewer writes."""
CONNECT_TIMEOUT_S = 1.5
"""A lost first packet is sent again after a second."""
CONNECTING_MAX = 1024
"""Attempts at the same time."""
LISTEN_S = 8.0
"""How long the ports that were opened for a check stay open: until the other nodes have tried them."""
PORT_TRIES = 16
ETCD_TIMEOUT_S = 2.0
_RANGES = {PortUse.DATABASES: range(19_999, 9_999, -1), PortUse.SERVERS: range(29_999, 19_999, -1)}
"""From the end, because databases and servers begin at the start."""
_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED_PORTS = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def no_offers() -> tuple[PortOffer, ...]:
    """The nodes share a machine: no port needs to be open."""
    return ()


@dataclass(frozen=True, slots=True)
class CheckedHere:
    """What a daemon knows of its node beside the records. The default is that of a node of a local cluster."""

    offers: Callable[[], tuple[PortOffer, ...]] = no_offers
    """The ports at which the node accepts other nodes now, without those of databases and servers."""
    certificates: Mapping[str, Path] = field(default_factory=dict)
    """Its certificates by name, in PEM; a file that does not exist is left out."""


class NodeChecks:
    """See the module's docstring. ``directory``: with the node's state. ``view``: the records now."""

    def __init__(
        self, node_uid: NodeUid, directory: Path, here: CheckedHere, *, view: Callable[[], ClusterView], clock: Clock
    ) -> None:
        self._node_uid = node_uid
        self._directory = directory
        self._here = here
        self._view = view
        self._clock = clock
        self._collecting = asyncio.Lock()
        self._listening: tuple[asyncio.TimerHandle, tuple[socket.socket, ...]] | None = None

    async def facts(self) -> NodeFacts:
        """See ``NodeLink.check``. Raises OSError. One collection at a time: two would measure each other."""
        async with self._collecting:
            began = self._clock.monotonic()
            offers = self._here.offers()
            opened, unusable = self._listen() if offers else ((), ())
            found = await asyncio.to_thread(self._collect, any(o.use is PortUse.STORE for o in offers))
            took_s = self._clock.monotonic() - began
            return replace(found, at=self._clock.now(), took_s=took_s, offers=(*offers, *opened), unusable=unusable)

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        """See ``NodeLink.try_ports``."""
        room = asyncio.Semaphore(CONNECTING_MAX)

        async def one(uid: NodeUid, offer: PortOffer) -> PortLook:
            async with room:
                reach, text = await try_port(offer.address, offer.port)
            return PortLook(uid, offer, reach, text)

        return tuple(await asyncio.gather(*(one(uid, offer) for uid, offer in ports)))

    def close(self) -> None:
        """Close the ports that were opened for a check."""
        if self._listening is not None:
            timer, sockets = self._listening
            timer.cancel()
            for one in sockets:
                one.close()
            self._listening = None

    def _listen(self) -> tuple[tuple[PortOffer, ...], tuple[tuple[PortOffer, str], ...]]:
        """Open one port of databases and one of servers, and close those of the last check."""
        self.close()
        view = self._view()
        node = view.nodes.get(self._node_uid)
        if node is None:
            return (), ()
        taken = {d.port for d in view.databases.values()} | {s.port for s in view.shards.values()}
        sockets: list[socket.socket] = []
        opened: list[PortOffer] = []
        unusable: list[tuple[PortOffer, str]] = []
        for use, address in ((PortUse.DATABASES, own_address(node)), (PortUse.SERVERS, node.servers_at)):
            try:
                listener = listener_in(_RANGES[use], address, taken)
            except OSError as e:
                unusable.append((PortOffer(use, address, 0), os.strerror(e.errno) if e.errno else str(e)))
                continue
            sockets.append(listener)
            opened.append(PortOffer(use, address, int(listener.getsockname()[1])))
        timer = asyncio.get_running_loop().call_later(LISTEN_S, self.close)
        self._listening = timer, tuple(sockets)
        return tuple(opened), tuple(unusable)

    def _collect(self, has_etcd: bool) -> NodeFacts:
        """What the machine itself shows. Blocks. Raises OSError."""
        disk = os.statvfs(self._directory)
        cluster = self._view().cluster
        configured = cluster.server_path if cluster is not None else ""
        return NodeFacts(
            at=self._clock.now(),
            took_s=0.0,
            version=__version__,
            servers=tuple((str(b.kind), b.version) for b in all_servers(configured=configured or None)),
            files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            disk_total_bytes=disk.f_blocks * disk.f_frsize,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            sync_p99_ms=sync_p99_ms(self._directory),
            local_ports=next(iter(_ranges_in(_LOCAL_PORTS, of_pairs=True)), None),
            reserved_ports=tuple(_ranges_in(_RESERVED_PORTS)),
            certificates=tuple(certificate_ends(self._here.certificates)),
            etcd=etcd_facts() if has_etcd else None,
            interfaces=tuple(sorted(name for _, name in socket.if_nameindex() if name != "lo")),
            may_move_addresses=may_move_addresses(),
        )


def listener_in(ports: Sequence[int], address: str, taken: Collection[int]) -> socket.socket:
    """A listener on one of the first free ports. It accepts none; the kernel completes the handshakes. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    free = (port for port in ports if port not in taken)
    for _, port in zip(range(PORT_TRIES), free, strict=False):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)
        except OSError as e:
            listener.close()
            if e.errno != errno.EADDRINUSE:
                raise
            continue
        return listener
    raise OSError(errno.EADDRINUSE, "other programs use the ports")


async def try_port(address: str, port: int) -> tuple[Reach, str]:
    """What becomes of a connection, which is closed at once, and the system's words if there is none."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return Reach.REFUSED, ""
    except TimeoutError:
        return Reach.NO_ANSWER, ""
    except OSError as e:
        reach = Reach.NO_ANSWER if e.errno == errno.ETIMEDOUT else Reach.NO_ROUTE
        return reach, os.strerror(e.errno).lower() if e.errno else str(e)
    writer.transport.abort()
    return Reach.OPEN, ""


def sync_p99_ms(directory: Path) -> float | None:
    """The 99th percentile of the time of small writes that reach the disk, as a store's log does them. None: the directory
    cannot be written."""
    times = []
    began = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(SYNCS):
                start = time.perf_counter()
                os.write(file.fileno(), bytes(SYNC_BYTES))
                os.fdatasync(file.fileno())
                end = time.perf_counter()
                times.append(end - start)
                if end - began > SYNC_TIME_S:
                    break
    except OSError:
        return None
    times.sort()
    return times[min(len(times) - 1, len(times) * 99 // 100)] * 1000


def certificate_ends(files: Mapping[str, Path]) -> Iterator[CertificateEnd]:
    """The ends of the certificates that can be read."""
    for name, path in files.items():
        with contextlib.suppress(OSError, ValueError):
            found = x509.load_pem_x509_certificate(path.read_bytes())
            yield CertificateEnd(name, found.not_valid_after_utc.astimezone(UTC))


def etcd_facts() -> EtcdFacts:
    """The version of the etcd program of this machine."""
    program = shutil.which("etcd")
    version = ""
    if program is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([program, "--version"], capture_output=True, timeout=ETCD_TIMEOUT_S, check=False)
            first = done.stdout.decode(errors="replace").partition("\n")[0]
            version = first.removeprefix("etcd Version:").strip()
    return EtcdFacts(version, is_suitable(version))


def _ranges_in(path: Path, *, of_pairs: bool = False) -> list[tuple[int, int]]:
    """The ranges of ports in a file of the kernel: ``32768 60999`` as a pair, or ``80,10000-29999``."""
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return ranges_of(text, of_pairs=of_pairs)


def ranges_of(text: str, *, of_pairs: bool = False) -> list[tuple[int, int]]:
    """See ``_ranges_in``. What is not a range is left out."""
    words = ["-".join(text.split())] if of_pairs else text.split(",")
    found = []
    for word in words:
        first, _, last = word.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.append((int(first), int(last or first)))
    return found
