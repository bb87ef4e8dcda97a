"""A node's certificates: which are due, who signs them, and what is written and recorded. Real files, a store in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from shardwright.agent.renewal import Ask, CertificateFiles, Renewals
from shardwright.agent.signing import Signing
from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.model.cluster import Cluster, Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.tasks import spawn
from shardwright.trust.authority import certificate_text, named_in
from shardwright.trust.certificates import LIFETIME, Grant, Member, certify, serial_text
from shardwright.trust.contexts import Credentials
from shardwright.trust.files import TrustFiles, load_credentials, own_key, write_credentials, write_signer
from shardwright.trust.renewal import RenewalRequest
from testkit.certificates import Members, members

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=61)
NODE, API, STORE = CertificateRole.NODE, CertificateRole.API, CertificateRole.STORE
ONE, TWO = NodeUid(1), NodeUid(2)


@dataclass
class Machine:
    """A node's files."""

    uid: NodeUid
    files: TrustFiles
    authority: Members

    def issue(self, role: CertificateRole, *names: str, at: datetime, authority: Members | None = None) -> None:
        signer = (authority or self.authority).signer
        grant = Grant(role, self.uid, names or (f"10.0.0.{self.uid}",))
        leaf = certify(signer, own_key(self.files).public_key(), grant, serial=x509.random_serial_number(), now=at)
        write_credentials(
            self.files, self.authority.signer.authority.text, {role: certificate_text(leaf, signer.authority.certificate)}
        )

    def shown(self, role: CertificateRole) -> Credentials:
        return load_credentials(self.files.member(role))


@dataclass
class World:
    store: MemoryStore
    mirror: Mirror
    one: Machine
    two: Machine

    def signing(self, machine: Machine) -> Signing:
        clock = SystemClock()
        return Signing(machine.files, self.store, mirror=self.mirror, clock=clock, random_text=lambda: "r")

    def renewals(self, machine: Machine, ask: Ask) -> Renewals:
        files = CertificateFiles(machine.uid, machine.files)
        return Renewals(files, mirror=self.mirror, signing=self.signing(machine), ask=ask, clock=SystemClock())

    async def recorded(self) -> dict[str, IssuedCertificate]:
        await self.mirror.fresh()
        return dict(self.mirror.view().issued_certificates)


def run(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        store, authority = MemoryStore(SystemClock()), members()
        first: list[StoredRecord] = [Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION)]
        first += [Node(uid, f"10.0.0.{uid}", NOW) for uid in (ONE, TWO)]
        await store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in first)))
        mirror = Mirror(store)
        task = spawn("mirror", mirror.run())
        await mirror.ready()
        machines = [Machine(uid, TrustFiles(directory / str(uid)), authority) for uid in (ONE, TWO)]
        for machine in machines:
            own_key(machine.files)
            for role in CertificateRole:
                machine.issue(role, at=NOW)
        write_signer(machines[0].files, authority.signer)
        try:
            await scenario(World(store, mirror, *machines))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(whole())


async def nobody(node: NodeUid, request: RenewalRequest) -> bytes:
    raise AssertionError("no other node is needed")


def test_nothing_is_done_before_it_is_due(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        before = {role: world.one.shown(role) for role in CertificateRole}
        assert await world.renewals(world.one, nobody).look() == {}
        assert {role: world.one.shown(role) for role in CertificateRole} == before
        assert await world.recorded() == {}

    run(tmp_path, scenario)


def test_a_node_with_the_authoritys_key_renews_its_own(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.one.issue(API, "10.0.0.1", "api.example.com", at=OLD)
        before = world.one.shown(NODE)
        assert await world.renewals(world.one, nobody).look() == {}
        new = world.one.shown(API).certificate
        assert new.not_valid_after_utc > NOW + timedelta(days=89)
        assert named_in(new) == ("10.0.0.1", "api.example.com"), "names that the record does not have stay"
        assert world.one.shown(NODE) == before
        assert list(await world.recorded()) == [serial_text(new.serial_number)]

    run(tmp_path, scenario)


def test_another_node_asks_until_one_signs_and_its_own_certificate_comes_last(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for role in CertificateRole:
            world.two.issue(role, at=OLD)
        asked: list[tuple[int, CertificateRole]] = []

        async def ask(node: NodeUid, request: RenewalRequest) -> bytes:
            asked.append((node, request.role))
            return await world.signing(world.one).sign_for(request, Member(NODE, TWO))

        assert await world.renewals(world.two, ask).look() == {}
        assert asked == [(ONE, API), (ONE, STORE), (ONE, NODE)]
        serials = {serial_text(world.two.shown(role).certificate.serial_number) for role in CertificateRole}
        assert serials == (await world.recorded()).keys()

    run(tmp_path, scenario)


def test_an_ended_api_certificate_is_renewed_but_an_ended_one_of_the_node_is_not(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.one.issue(API, at=NOW - LIFETIME - timedelta(hours=1))
        assert await world.renewals(world.one, nobody).look() == {}
        assert world.one.shown(API).certificate.not_valid_after_utc > NOW
        world.one.issue(NODE, at=NOW - LIFETIME - timedelta(hours=1))
        with pytest.raises(Permanent) as ended:
            await world.renewals(world.one, nobody).look()
        assert ended.value.code is Code.CERTIFICATE_EXPIRED

    run(tmp_path, scenario)


def test_without_anybody_who_signs_it_stays_due_and_the_files_stay(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.two.issue(API, at=OLD)
        before = world.two.shown(API)

        async def ask(node: NodeUid, request: RenewalRequest) -> bytes:
            raise Permanent(Code.AUTHORITY_KEY_ABSENT, f"node {node} has no key")

        left = await world.renewals(world.two, ask).look()
        assert list(left) == [API]
        assert world.two.shown(API) == before

    run(tmp_path, scenario)


def test_a_wrong_answer_is_not_written(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.two.issue(API, at=OLD)
        before = world.two.shown(API)

        async def ask(node: NodeUid, request: RenewalRequest) -> bytes:
            return world.one.files.certificate(API).read_bytes()

        assert list(await world.renewals(world.two, ask).look()) == [API]
        assert world.two.shown(API) == before

    run(tmp_path, scenario)


def test_a_certificate_of_the_operators_own_authority_is_left_alone(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.one.issue(STORE, at=OLD, authority=members())
        text = world.one.files.certificate(STORE).read_bytes()
        assert await world.renewals(world.one, nobody).look() == {}
        assert world.one.files.certificate(STORE).read_bytes() == text

    run(tmp_path, scenario)


def test_a_node_without_a_record_gets_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        request = CertificateFiles(TWO, world.two.files).request(world.two.shown(API), SystemClock())
        with pytest.raises(Permanent) as refused:
            await world.signing(world.one).sign_for(request, Member(NODE, NodeUid(3)))
        assert refused.value.code is Code.NODE_GONE
        with pytest.raises(Permanent) as refused:
            await world.signing(world.one).sign_for(request, Member(API, TWO))
        assert refused.value.code is Code.PEER_ROLE_WRONG
        assert await world.recorded() == {}

    run(tmp_path, scenario)


def test_names_are_granted_from_the_record_and_from_what_this_node_held_only(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.two.issue(API, "10.9.9.9", at=OLD)
        request = CertificateFiles(TWO, world.two.files).request(world.two.shown(API), SystemClock())
        # Node 1 asks with node 2's certificate: it gets the names of its own record.
        chain = await world.signing(world.one).sign_for(request, Member(NODE, ONE))
        assert named_in(x509.load_pem_x509_certificate(chain)) == ("10.0.0.1",)
        chain = await world.signing(world.one).sign_for(request, Member(NODE, TWO))
        assert named_in(x509.load_pem_x509_certificate(chain)) == ("10.0.0.2", "10.9.9.9")

    run(tmp_path, scenario)
