"""The HTTPS server itself: TLS versions, a taken port, stopping, slow and broken clients."""

import asyncio
import contextlib
import socket
import ssl
import time
import warnings

import pytest
from api_harness import RunningApi, make_certificate

from shardwright.api import server
from shardwright.api.server import serve
from shardwright.errors import Permanent
from shardwright.testing.deadlines import Stopwatch


def test_old_tls_is_refused() -> None:
    with RunningApi() as api:
        context = ssl.create_default_context(cafile=str(api.certificate))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection((api.host, api.server.port), 5) as plain, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain, server_hostname=api.host).close()


def test_a_taken_port_is_an_error_and_not_an_exit(tmp_path: object) -> None:
    with RunningApi() as api:
        key_file = api.certificate.parent / "other.pem"
        make_certificate(api.host, api.certificate.parent / "other-cert.pem", key_file)

        async def second() -> None:
            await serve(api.app, api.host, api.server.port, api.certificate.parent / "other-cert.pem", key_file)

        with pytest.raises(Permanent, match="cannot listen") as failed:
            asyncio.run(second())
        assert failed.value.code == "api_port_unavailable"


def test_stopping_with_idle_and_half_open_connections_takes_less_than_four_seconds() -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(RunningApi())
        http = stack.enter_context(api.client())
        http.get("/v1/nodes")
        half = stack.enter_context(socket.create_connection((api.host, api.server.port), 5))
        half.sendall(b"\x16\x03")
        context = ssl.create_default_context(cafile=str(api.certificate))
        raw = stack.enter_context(socket.create_connection((api.host, api.server.port), 5))
        slow = stack.enter_context(context.wrap_socket(raw, server_hostname=api.host))
        slow.sendall(b"POST /v1/bdbs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        watch = Stopwatch()
        api.run(api.server.stop())
        assert watch.is_within(4), watch
        with pytest.raises(OSError, match=r".*"):
            socket.create_connection((api.host, api.server.port), 1).close()


def test_garbage_ends_one_connection_only() -> None:
    with RunningApi() as api, api.client() as http:
        context = ssl.create_default_context(cafile=str(api.certificate))
        for garbage in (b"\x00\xff" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000):
            with (
                socket.create_connection((api.host, api.server.port), 5) as raw,
                context.wrap_socket(raw, server_hostname=api.host) as tls,
                contextlib.suppress(OSError),
            ):
                tls.sendall(garbage)
                assert tls.recv(4096).startswith(b"HTTP/1.1 4")
        assert http.get("/v1/nodes").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v1/nodes HT", b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_come_end_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_TIMEOUT_S", 0.3)
    with RunningApi() as api, api.client() as http:
        context = ssl.create_default_context(cafile=str(api.certificate))
        with (
            socket.create_connection((api.host, api.server.port), 10) as raw,
            context.wrap_socket(raw, server_hostname=api.host) as tls,
        ):
            if sent:
                tls.sendall(sent)
            assert tls.recv(1) == b"", "closed by the server"
        assert http.get("/v1/nodes").status_code == 200


def test_answers_do_not_wait_for_delayed_acknowledgements() -> None:
    with RunningApi() as api, api.client() as http:
        http.get("/v1/nodes")
        took = []
        for _ in range(20):
            begin = time.perf_counter()
            http.get("/v1/nodes")
            took.append(time.perf_counter() - begin)
        assert min(took) < 0.03, f"40 ms are the mark of a missing TCP_NODELAY: {sorted(took)}"
