"""Clients during an upgrade: writers that stay connected to each machine, and others that connect anew each time. None of
them repeats anything."""

import threading
import time
from typing import Any

import redis

from testkit.deadlines import until
from testkit.list_writer import Acknowledged
from tests.machines.takeovers import Writer, all_write_since

WRITES_S = 30.0
NEWCOMER_EVERY_S = 0.02


class NumberedWriter(Writer):
    """Has a list of its own, also when an earlier writer was at the same place."""

    def __init__(self, address: str, port: int, number: int) -> None:
        super().__init__(address, port)
        self.name, self.port = f"{address}-{number}", port


class Newcomer(threading.Thread):
    """Opens a connection for each command."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(daemon=True)
        self.address, self.port = address, port
        self.served, self.errors = 0, list[str]()
        self.is_over = False

    def run(self) -> None:
        """Until ``is_over``."""
        while not self.is_over:
            try:
                with redis.Redis(self.address, self.port, socket_timeout=4, socket_connect_timeout=4) as client:
                    client.ping()
                self.served += 1
            except redis.RedisError as e:
                self.errors.append(f"{self.address}:{self.port}: {type(e).__name__}: {e}")
            time.sleep(NEWCOMER_EVERY_S)


class UpgradeLoad:
    """See the module's text. A context manager. ``addresses``: of the machines, by name. ``ports``: of the databases."""

    def __init__(self, addresses: dict[str, str], ports: dict[str, int]) -> None:
        self._addresses, self._ports = addresses, ports
        self._writers: dict[str, list[NumberedWriter]] = {}
        self._newcomers: dict[str, list[Newcomer]] = {}
        self._all: list[NumberedWriter] = []
        self._all_newcomers: list[Newcomer] = []

    def __enter__(self) -> "UpgradeLoad":
        for name in self._addresses:
            self.come(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._writers):
            self.leave(name)

    def come(self, name: str) -> None:
        """Clients connect to a machine."""
        for port in self._ports.values():
            writer = NumberedWriter(self._addresses[name], port, len(self._all))
            newcomer = Newcomer(self._addresses[name], port)
            self._writers.setdefault(name, []).append(writer)
            self._newcomers.setdefault(name, []).append(newcomer)
            self._all.append(writer)
            self._all_newcomers.append(newcomer)
            writer.start()
            newcomer.start()

    def leave(self, name: str) -> None:
        """The clients of a machine leave, as those do that know that it is emptied."""
        leaving: list[Any] = [*self._writers.pop(name), *self._newcomers.pop(name)]
        for client in leaving:
            client.is_over = True
        for client in leaving:
            client.join(20)

    def check_all_write(self) -> None:
        """Every writer gets an answer from now on, and none has ever got an error."""
        since = time.monotonic()
        now = [writer for writers in self._writers.values() for writer in writers]
        until("all write", lambda: all_write_since(list(now), since), seconds=WRITES_S, state=self.said)
        assert self.errors() == [], self.said()

    def errors(self) -> list[str]:
        """All errors that any client has got."""
        refused = [f"{w.name}:{w.port}: {w.last_error}" for w in self._all if w.refused]
        return refused + [error for newcomer in self._all_newcomers for error in newcomer.errors]

    def said(self) -> str:
        """In one line, for people."""
        written = sum(len(writer.acknowledged) for writer in self._all)
        served = sum(newcomer.served for newcomer in self._all_newcomers)
        gap_s = max((writer.longest_gap_s(0.0) for writer in self._all), default=0.0)
        errors = self.errors()
        return f"{written} acknowledged, {served} connections, longest wait {gap_s:.2f} s, {len(errors)} errors {errors[:5]}"

    def lost(self, client: Any, port: int) -> list[Acknowledged]:
        """What was acknowledged at this port and is not there."""
        return [one for writer in self._all if writer.port == port for one in writer.lost(client)]
