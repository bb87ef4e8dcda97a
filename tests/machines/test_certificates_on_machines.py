"""Certificates that live for a minute, on three machines, while clients write: all of them are renewed again and again, no
client notices, and the channels between the machines live on with the new ones.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import redis
from cryptography import x509

from demo.machines.cluster import DAEMON, NODES, MachinesCluster
from shardwright.faults import LIFETIME_VARIABLE
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.server.binaries import all_servers, has_tls
from shardwright.trust.authority import certificate_text, named_in
from shardwright.trust.certificates import Grant, certify
from shardwright.trust.contexts import client_context
from shardwright.trust.files import TrustFiles, load_credentials, load_signer, own_key
from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.machines.commands import missing
from testkit.machines.machine import Machine
from tests.machines.takeovers import Writer, all_write_since, end, have_written, said

pytestmark = [
    pytest.mark.proof,
    pytest.mark.slow,  # several minutes: the certificates must end
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
LIFETIME_S = 90
"""It is renewed after two thirds of it: half a minute is left for a busy machine."""
FIRST_S = 40
"""How long the certificates live that the test writes before the daemons renew anything."""
GENERATIONS = 3
PORTS = {9443: CertificateRole.API, 9444: CertificateRole.NODE, 9445: CertificateRole.NODE, 2379: CertificateRole.STORE}
FRESH_S = 90.0


@pytest.fixture
def cluster() -> Iterator[MachinesCluster]:
    require_etcd()
    drop_ins = {DAEMON: f"[Service]\nEnvironment={LIFETIME_VARIABLE}={LIFETIME_S}\n"}
    with MachinesCluster(print, drop_ins=drop_ins) as made:
        yield made


def files_of(machine: Machine) -> TrustFiles:
    return TrustFiles(machine.configuration)


def shorten(machine: Machine, signer_of: Machine, node: int) -> None:
    """Give a machine certificates with the names of its present ones that end soon."""
    files, signer = files_of(machine), load_signer(files_of(signer_of))
    for role in CertificateRole:
        held = load_credentials(files.member(role)).certificate
        grant = Grant(role, NodeUid(node), named_in(held))
        now, lifetime = datetime.now(UTC), timedelta(seconds=FIRST_S)
        key, serial = own_key(files).public_key(), x509.random_serial_number()
        made = certify(signer, key, grant, serial=serial, now=now, lifetime=lifetime)
        path = files.certificate(role)
        new = path.with_name(f"{path.name}.test")
        new.write_bytes(certificate_text(made, signer.authority.certificate))
        # With the owner and the mode that the daemon's own file has.
        machine.check(
            "sh", "-c", f"cd /etc/shardwright; chown --reference={path.name} {new.name}; mv {new.name} {path.name}"
        )


def shown(asker: Machine, machine: Machine, port: int) -> x509.Certificate | None:
    """What a member that connects now sees at a port; None: nobody answers, or the handshake fails."""
    context = client_context(load_credentials(files_of(asker).member(CertificateRole.NODE)))
    if port == 2379:
        context = client_context(load_credentials(files_of(asker).member(CertificateRole.STORE)))
    with suppress(OSError), socket.create_connection((machine.address, port), 5) as plain:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with context.wrap_socket(plain, server_hostname=machine.address) as secured:
            found = secured.getpeercert(binary_form=True)
            return None if found is None else x509.load_der_x509_certificate(found)
    return None


def serials(machines: list[Machine]) -> dict[tuple[str, int], int]:
    """By machine and port; 0: nobody answers."""
    found = {}
    for number, machine in enumerate(machines):
        asker = machines[(number + 1) % len(machines)]
        for port in PORTS:
            certificate = shown(asker, machine, port)
            found[machine.name, port] = 0 if certificate is None else certificate.serial_number
    return found


def are_new(machines: list[Machine], before: dict[tuple[str, int], int]) -> bool:
    return all(serial and serial != before[place] for place, serial in serials(machines).items())


def test_certificates_are_renewed_again_and_again_under_load(cluster: MachinesCluster) -> None:
    assert cluster.machines is not None
    machines = [cluster.machines[name] for name in NODES]
    strict = cluster.create_database(name="orders", memory_size=100_000_000, replication=True, data_persistence="aof")
    # Servers that encrypt show the node's certificate too. They must be told to read it again.
    kind = "redis" if any(found.kind is ServerKind.REDIS and has_tls(found.path) for found in all_servers()) else "valkey"
    plain = cluster.create_database(name="cache", memory_size=100_000_000, replication=True, strict=False, server=kind)
    assert plain["server_tls"] is (kind == "redis")
    ports = [int(made["endpoints"][0]["port"]) for made in (strict, plain)]
    by_port = {port: [Writer(machine.address, port) for machine in machines] for port in ports}
    writers = [writer for found in by_port.values() for writer in found]
    for writer in writers:
        writer.start()
    try:
        until("all write", partial(have_written, writers, 100), seconds=30, state=lambda: said(writers))
        for machine in machines:
            # The daemon looks at its certificates when it starts, and from then on when they are due.
            shorten(machine, machines[0], cluster.node_of(machine.name))
            before = serials(machines)
            machine.stop(DAEMON)
            machine.start(DAEMON)
            own = partial(is_renewed, machines, machine, before)
            until(f"{machine.name} renews", own, seconds=FRESH_S, state=lambda: state(cluster, machines))
        for generation in range(GENERATIONS):
            before = serials(machines)
            fresh = partial(are_new, machines, before)
            until("all certificates are new", fresh, seconds=LIFETIME_S + FRESH_S, state=lambda: state(cluster, machines))
            for made in (strict, plain):
                check_service(cluster, int(made["uid"]), writers)
            if plain["server_tls"]:
                shows = partial(servers_show, cluster, machines, int(plain["uid"]))
                until("servers show it", shows, seconds=30, state=lambda: state(cluster, machines))
            print(f"generation {generation + 1}: {said(writers)}")
        ends = [load_credentials(files_of(m).member(role)).certificate for m in machines for role in CertificateRole]
        lives = [one.not_valid_after_utc - datetime.now(UTC) for one in ends]
        assert all(timedelta(0) < left <= timedelta(seconds=LIFETIME_S) for left in lives), lives
    finally:
        end(writers)
    for port, found in by_port.items():
        with redis.Redis(machines[0].address, port) as client:
            assert [writer.lost(client) for writer in found] == [[] for _ in found], port
    kinds = [event["type"] for event in cluster.call("GET", "/v1/logs?limit=1000")]
    assert kinds.count("certificate_renewed") >= GENERATIONS * len(machines) * len(CertificateRole)


def servers_show(cluster: MachinesCluster, machines: list[Machine], database: int) -> bool:
    """Whether the servers of a database show the present certificates of their nodes."""
    for shard in cluster.shards():
        if int(shard["bdb_uid"]) != database:
            continue
        machine = cluster.machine_of(int(shard["node_uid"]))
        found = shown(next(other for other in machines if other is not machine), machine, int(shard["port"]))
        held = load_credentials(files_of(machine).member(CertificateRole.NODE)).certificate
        if found is None or found.serial_number != held.serial_number:
            return False
    return True


def is_renewed(machines: list[Machine], machine: Machine, before: dict[tuple[str, int], int]) -> bool:
    now = serials(machines)
    return all(now[machine.name, port] and now[machine.name, port] != before[machine.name, port] for port in PORTS)


def check_service(cluster: MachinesCluster, database: int, writers: list[Writer]) -> None:
    """A handoff uses the channels to the agents and to the endpoint processes of all machines, and the store."""
    cluster.finish(cluster.start(cluster.primary_node(database), "enslave_node", shards_only=True))
    assert all(cluster.store_status(name) for name in NODES), "the members of the store answer"
    assert {node["status"] for node in cluster.call("GET", "/v1/nodes")} == {"active"}
    since = time.monotonic()
    until("all write", partial(all_write_since, writers, since), seconds=30, state=lambda: said(writers))
    assert [writer.refused for writer in writers] == [0] * len(writers), said(writers)


def state(cluster: MachinesCluster, machines: list[Machine]) -> str:
    assert cluster.machines is not None
    lives = {
        f"{machine.name} {role}": str(load_credentials(files_of(machine).member(role)).certificate.not_valid_after_utc)
        for machine in machines
        for role in CertificateRole
    }
    return f"now {datetime.now(UTC)}, ends {lives}\n{cluster.machines.logs()}"
