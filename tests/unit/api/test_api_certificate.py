"""The API's certificate follows its files, and never becomes worse than it was."""

import asyncio
import contextlib
import socket
import ssl
import threading
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from shardwright.api.certificate import ApiCertificate
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.tasks import spawn
from shardwright.trust.files import MemberFiles
from testkit.certificates import Members, members
from testkit.deadlines import until_async


def issue(authority: Members, directory: Path) -> MemberFiles:
    """A new certificate with a new key, over an earlier one."""
    return authority.files(directory, 1, "127.0.0.1", role=CertificateRole.API, name="api")


def serial_in(files: MemberFiles) -> int:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


def shown(context: ssl.SSLContext, authority: Path) -> int:
    """What a client sees."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def serve() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(theirs, server_side=True) as secured:
                secured.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        with ssl.create_default_context(cafile=str(authority)).wrap_socket(ours, server_hostname="127.0.0.1") as client:
            found = client.getpeercert(binary_form=True)
        server.join(10)
    assert found is not None
    return x509.load_der_x509_certificate(found).serial_number


def is_shown(certificate: ApiCertificate, files: MemberFiles, serial: int) -> bool:
    return shown(certificate.context, files.authority) == serial


def test_a_new_certificate_is_shown_by_the_same_context(tmp_path: Path) -> None:
    authority = members()
    files = issue(authority, tmp_path)
    certificate = ApiCertificate(files.certificate, files.key)
    assert certificate.load()
    context = certificate.context
    assert shown(context, files.authority) == serial_in(files)
    assert not certificate.load()
    issue(authority, tmp_path)
    assert certificate.load()
    assert certificate.context is context
    assert shown(context, files.authority) == serial_in(files)


def test_what_does_not_fit_together_is_not_shown(tmp_path: Path) -> None:
    authority = members()
    files = issue(authority, tmp_path)
    certificate = ApiCertificate(files.certificate, files.key)
    certificate.load()
    before, key = serial_in(files), files.key.read_bytes()
    issue(authority, tmp_path)
    new_key = files.key.read_bytes()
    for harm in (key, b"no key", None):
        if harm is None:
            files.key.unlink()
        else:
            files.key.write_bytes(harm)
        with pytest.raises(Permanent) as refused:
            certificate.load()
        assert refused.value.code is Code.CREDENTIALS_UNUSABLE
        assert shown(certificate.context, files.authority) == before
    files.key.write_bytes(new_key)
    assert certificate.load()
    assert shown(certificate.context, files.authority) == serial_in(files)


def test_it_follows_the_files_by_itself(tmp_path: Path) -> None:
    authority = members()
    files = issue(authority, tmp_path)
    certificate = ApiCertificate(files.certificate, files.key)
    certificate.load()

    async def scenario() -> None:
        following = spawn("follow", certificate.follow(0.01))
        for _ in range(3):
            wanted = serial_in(await asyncio.to_thread(issue, authority, tmp_path))
            await until_async("shown", partial(is_shown, certificate, files, wanted), seconds=10)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())
