"""The HTTPS server itself: TLS versions, a port in use, stopping, slow and broken clients."""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import time
import warnings
from http.client import HTTPResponse

import pytest

from shardwright.api import server
from shardwright.api.server import serve
from shardwright.api.services import intent
from shardwright.errors import Permanent
from shardwright.tasks import GIVE_WAY_S
from testkit.deadlines import Stopwatch
from tests.integration.api_harness import PASSWORD, RunningApi


def read_answer(connection: ssl.SSLSocket) -> tuple[int, str]:
    """Status and error code of an answer; its body must be JSON as its headers state."""
    answer = HTTPResponse(connection)
    answer.begin()
    body = answer.read()
    assert answer.headers["content-type"] == "application/json", body
    assert int(answer.headers["content-length"]) == len(body)
    return answer.status, json.loads(body)["error_code"]


def secured(api: RunningApi, stack: contextlib.ExitStack) -> ssl.SSLSocket:
    """A separate connection."""
    context = ssl.create_default_context(cafile=str(api.certificate))
    raw = stack.enter_context(socket.create_connection((api.host, api.server.port), 10))
    return stack.enter_context(context.wrap_socket(raw, server_hostname=api.host))


def test_a_request_that_the_end_of_the_server_interrupts_is_answered_with_json() -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(RunningApi())
        token = base64.b64encode(f"admin@example.com:{PASSWORD}".encode()).decode()
        slow = secured(api, stack)
        slow.sendall(
            f"POST /v1/bdbs HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        with api.client() as http:
            assert http.get("/v1/nodes").status_code == 200  # The other request is in progress by then.
        api.run(api.server.stop())
        assert read_answer(slow) == (503, "node_stopping")


def test_a_request_gives_way_to_a_handoff_but_not_for_long() -> None:
    with RunningApi() as api, api.client() as http:
        assert http.get("/v1/nodes").status_code == 200
        api.right_of_way.begin("a handoff")
        began = time.monotonic()
        assert http.get("/v1/nodes").status_code == 200
        assert time.monotonic() - began >= GIVE_WAY_S


def test_a_request_asks_the_store_for_its_revision_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with RunningApi() as api, api.client() as http:
        asked: list[int] = []
        ask = api.store.revision

        async def revision() -> int:
            asked.append(await ask())
            return asked[-1]

        monkeypatch.setattr(api.store, "revision", revision)
        for number in range(1, 4):
            assert http.get("/v1/nodes").status_code == 200
            assert len(asked) == number
        for recent_s, times in ((60.0, 1), (0.0, 2)):
            monkeypatch.setattr(intent, "RECENT_S", recent_s)
            asked.clear()
            assert http.put("/v1/users/1", json={"name": f"new {times}"}).json()["name"] == f"new {times}"
            assert len(asked) == times, "what is decided from a state that is not recent is read again"
            assert http.get("/v1/users/1").json()["name"] == f"new {times}"


def test_a_connection_above_the_limit_is_answered_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(RunningApi())
        others = [secured(api, stack) for _ in range(2)]
        last = secured(api, stack)
        last.sendall(b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(last) == (503, "too_many_connections")
        others[0].sendall(b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(others[0]) == (401, "unauthenticated")


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


def test_a_port_in_use_is_an_error_but_not_an_exit(tmp_path: object) -> None:
    with RunningApi() as api:

        async def second() -> None:
            await serve(api.app, [api.host], api.server.port, api.shown.context)

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


def test_garbage_ends_only_one_connection() -> None:
    with RunningApi() as api, api.client() as http:
        context = ssl.create_default_context(cafile=str(api.certificate))
        for garbage in (b"\x00\xff" * 100 + b"\r\n\r\n", b"GET / HTTP/nine\r\n\r\n", b"A" * 200_000):
            with (
                socket.create_connection((api.host, api.server.port), 5) as raw,
                context.wrap_socket(raw, server_hostname=api.host) as tls,
                contextlib.suppress(OSError),
            ):
                tls.sendall(garbage)
                assert read_answer(tls) == (400, "malformed_http")
        assert http.get("/v1/nodes").status_code == 200


def test_a_body_that_turns_into_garbage_is_answered_with_json() -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(RunningApi())
        connection = secured(api, stack)
        connection.sendall(b"POST /v1/bdbs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert read_answer(connection) in ((400, "malformed_http"), (401, "unauthenticated"))


@pytest.mark.parametrize("sent", [b"", b"GET /v1/nodes HT", b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_arrive_end_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert min(took) < 0.03, f"40 ms indicate a missing TCP_NODELAY: {sorted(took)}"
