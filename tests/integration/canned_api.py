"""A small real HTTP server that gives canned answers and records its requests; for tests of the command line."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, object]
Script = Mapping[str, Answer | list[Answer] | Callable[[], Answer]]
"""``"GET /v1/nodes"`` -> an answer. A list is answered one by one; its last answer repeats."""

USER, PASSWORD = "admin@example.com", "right-password"


@dataclass
class ReceivedRequest:
    """One received request."""

    line: str
    query: str
    body: Any


@dataclass
class CannedApi:
    """The running server."""

    url: str
    script: dict[str, Any]
    asked: list[ReceivedRequest] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [one.line for one in self.asked]

    def body_of(self, line: str) -> Any:
        return next(one.body for one in self.asked if one.line == line)


@contextmanager
def canned_api(
    script: Script, *, host: str = "127.0.0.1", certificate: tuple[Path, Path] | None = None
) -> Iterator[CannedApi]:
    """Serve ``script`` until the block ends; with a certificate (and its key), over TLS."""
    api = CannedApi("", {line: list(answer) if isinstance(answer, list) else answer for line, answer in script.items()})
    server = ThreadingHTTPServer((host, 0), _handler(api))
    server.daemon_threads = False
    scheme = "http"
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    api.url = f"{scheme}://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(api: CannedApi) -> type[BaseHTTPRequestHandler]:
    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            line = f"{self.command} {path}"
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            api.asked.append(ReceivedRequest(line, query, json.loads(raw) if raw else None))
            answer: Answer = (401, {"error_code": "unauthorized", "description": "wrong user or password"})
            if self.headers.get("authorization") == expected:
                answer = _next(api.script, line)
            status, body = answer
            if status == 0:  # a node that dies during a request
                self.close_connection = True
                return
            sent = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _next(script: dict[str, Any], line: str) -> Answer:
    answer = script.get(line, (404, {"error_code": "not_found", "description": f"nothing at {line}"}))
    if isinstance(answer, list):
        answer = answer.pop(0) if len(answer) > 1 else answer[0]
    found: Answer = answer() if callable(answer) else answer
    return found
