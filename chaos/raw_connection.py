"""A bare RESP connection that can misbehave as no client library does: it sends halves and reads late. For the crowd's
clients."""

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from chaos.load import Work
from chaos.verdict import TurnOutcome

SILENCE_S = 20.0
"""Longer than an endpoint holds a command, with reserve for a busy machine and a large value."""
LOOK_EVERY_S = 0.1
_BUFFER_BYTES = 1 << 18


class EndedBadly(Exception):
    """A turn failed: its outcome, and what was observed."""

    def __init__(self, outcome: TurnOutcome, text: str = "") -> None:
        super().__init__(text)
        self.outcome = outcome


class ErrorReply(str):
    """An error instead of a reply."""


Reply = bytes | int | ErrorReply | None


def command(*words: str | bytes) -> bytes:
    """One command as a client sends it."""
    parts = [w.encode() if isinstance(w, str) else w for w in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def head_of_set(key: str, size: int) -> bytes:
    """A SET up to its value of this size, without the value and the final line end."""
    return command("SET", key, b"").removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % size


class RawConnection:
    """One connection. All methods raise EndedBadly."""

    def __init__(self, work: Work) -> None:
        try:
            self._socket = socket.create_connection((work.address, work.port), timeout=SILENCE_S)
        except OSError as e:
            raise EndedBadly(TurnOutcome.RESET, f"no connection: {e}") from e
        self._file = cast(BinaryIO, self._socket.makefile("rb", _BUFFER_BYTES))

    def send(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError as e:
            raise EndedBadly(TurnOutcome.SILENT, "it accepts no more bytes") from e
        except BrokenPipeError as e:
            # The peer's FIN arrived while this was in transit; without a FIN it would be a ConnectionResetError.
            raise EndedBadly(TurnOutcome.CLOSED, "while sending") from e
        except OSError as e:
            raise EndedBadly(TurnOutcome.RESET, f"while sending: {e}") from e

    def rest(self, seconds: float, stop: threading.Event) -> None:
        """Send nothing for a while. Ends early with the peer's FIN or reset."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop.is_set():
            if select.select([self._socket], [], [], LOOK_EVERY_S)[0] and not self._read(self._peek):
                raise EndedBadly(TurnOutcome.CLOSED)

    def _peek(self) -> bytes:
        return self._socket.recv(1, socket.MSG_PEEK)

    def send_behind(self, data: bytes) -> threading.Thread:
        """Send while the caller reads. The reader notices an end of the connection."""
        thread = threading.Thread(target=self._send_quietly, args=(data,), daemon=True)
        thread.start()
        return thread

    def _send_quietly(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            return

    def stop_sending(self) -> None:
        """Close this side for sending."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as e:
            raise EndedBadly(TurnOutcome.RESET, str(e)) from e

    def reply(self) -> Reply:
        """The next reply."""
        line = self._line()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest) + 2)[:-2]
        if kind == b"-":
            return ErrorReply(rest.decode(errors="replace"))
        return int(rest) if kind == b":" else rest

    def _line(self) -> bytes:
        line = self._read(lambda: self._file.readline())
        if not line:
            raise EndedBadly(TurnOutcome.CLOSED)
        if not line.endswith(b"\r\n"):
            raise EndedBadly(TurnOutcome.CUT, repr(line[:60]))
        return line

    def _exactly(self, size: int) -> bytes:
        data = self._read(lambda: self._file.read(size))
        if len(data) < size:
            raise EndedBadly(TurnOutcome.CUT, f"{len(data)} of {size} bytes")
        return data

    def byte(self) -> bytes:
        """The next byte, read separately; empty: a FIN."""
        return self._read(lambda: self._socket.recv(1))

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError as e:
            raise EndedBadly(TurnOutcome.SILENT, f"no reply for {SILENCE_S:g} s") from e
        except OSError as e:
            raise EndedBadly(TurnOutcome.RESET, f"while reading: {e}") from e

    def close(self) -> None:
        self._file.close()
        self._socket.close()
