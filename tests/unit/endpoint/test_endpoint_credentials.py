"""The certificate that a process shows: read from files, renewed while it runs, and kept while the files are unusable."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint.credentials import OwnCertificate
from shardwright.endpoint.tls import (
    OwnCertificateUnusable,
    PeerRefused,
    TlsListener,
    refusal_of,
)
from shardwright.model.codes import Code
from shardwright.trust.contexts import Credentials
from shardwright.trust.files import MemberFiles, load_credentials
from testkit.certificates import members
from tests.unit.endpoint.tls_harness import Cluster, Loop, connect, run, serial_of

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(members(), tmp_path / "files")


def test_a_renewed_certificate_is_used_for_the_next_connection(loop: Loop, cluster: Cluster) -> None:
    files = cluster.files(1, name="own")
    own = OwnCertificate(files)
    caller = cluster.own(2)
    revoked = {serial_of(files)}

    async def scenario(listener: TlsListener) -> None:
        old = await connect(listener, caller)
        with pytest.raises(PeerRefused):
            await connect(listener, caller, revoked=lambda: revoked)
        cluster.files(1, name="own")
        async with await connect(listener, caller, revoked=lambda: revoked) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}, "the new one is shown"
        files.key.write_text("half a key")
        async with await connect(listener, caller, revoked=lambda: revoked) as channel:
            assert await channel.ask({"n": 2}) == {"n": 2}, "an unusable file changes nothing"
        cluster.files(5, name="own")
        async with await connect(listener, caller, revoked=lambda: revoked) as channel:
            assert await channel.ask({"n": 3}) == {"n": 3}, "nor does the certificate of another node"
        files.certificate.unlink()
        async with await connect(listener, caller, revoked=lambda: revoked) as channel:
            assert await channel.ask({"n": 4}) == {"n": 4}, "nor does a missing file"
        async with old:
            assert await old.ask({"n": 5}) == {"n": 5}, "an open connection stays"

    run(loop, own, scenario)


def test_a_caller_shows_its_renewed_certificate_too(loop: Loop, cluster: Cluster) -> None:
    files = cluster.files(2, name="caller")
    caller = OwnCertificate(files)
    revoked = {serial_of(files)}

    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, caller) as channel:
            received = await channel.receive()
            assert received is not None
            assert refusal_of(received[0]) is not None
        cluster.files(2, name="caller")
        async with await connect(listener, caller) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}

    run(loop, cluster.own(1), scenario, revoked=lambda: revoked)


def test_unchanged_files_are_not_read_again(loop: Loop, cluster: Cluster) -> None:
    files = cluster.files(1)
    reads: list[MemberFiles] = []

    def load(of: MemberFiles) -> Credentials:
        reads.append(of)
        return load_credentials(of)

    own = OwnCertificate(files, load)
    contexts = own.server(), own.client()
    assert (own.server(), own.client()) == contexts
    assert len(reads) == 1
    cluster.files(1)
    own.client()
    assert len(reads) == 2


def test_without_usable_files_there_is_no_connection_until_there_are(loop: Loop, cluster: Cluster) -> None:
    directory = cluster.directory
    files = MemberFiles(directory / "late.pem", directory / "late-key.pem", directory / "ca.pem")
    late = OwnCertificate(files)

    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(OwnCertificateUnusable, match="cannot be used") as missing:
            await connect(listener, late)
        assert missing.value.code is Code.CREDENTIALS_UNUSABLE
        assert cluster.files(2, name="late") == files
        async with await connect(listener, late) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}

    run(loop, cluster.own(1), scenario)
