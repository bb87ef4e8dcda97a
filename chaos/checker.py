"""The checker's process: ``python -m chaos.checker DIR``.

During the run it reads accounts and counters: a transaction must never be partly visible, and a counter must never decrease
if nothing may be lost. When its input ends, it compares everything acknowledged with everything stored, and prints one JSON
object.
"""

import json
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from chaos.journal import Findings, Stored, compare, longest_pause, parse
from chaos.load import (
    Place,
    Work,
    account_keys,
    client_of,
    counter_keys,
    list_key,
    transfers_key,
)

LOOK_EVERY_S = 0.25
ATTEMPTS_MAX = 20
SHOWN_MAX = 20


class Watcher(threading.Thread):
    """Reads one database repeatedly."""

    def __init__(self, work: Work, stop: threading.Event) -> None:
        super().__init__(name=f"watch-{work.name}", daemon=True)
        self.torn: list[str] = []
        self.went_back: list[str] = []
        self.looks = 0
        self._work = work
        self._stop_wanted = stop
        self._last: dict[str, int] = {}

    def run(self) -> None:
        attempt = 0
        client = client_of(self._work)
        while not self._stop_wanted.wait(LOOK_EVERY_S):
            for writer in range(self._work.writers):
                try:
                    self._look(client, writer)
                except redis.RedisError:
                    attempt += 1
                    client.close()
                    client = client_of(self._work, attempt)
        client.close()

    def _look(self, client: Any, writer: int) -> None:
        pipe = client.pipeline(transaction=True)
        pipe.mget(account_keys(writer))
        pipe.mget(counter_keys(writer))
        accounts, counters = pipe.execute()
        self.looks += 1
        values = [int(x or 0) for x in accounts]
        if sum(values) != 0:
            self.torn.append(f"{self._work.name} writer {writer}: the sum of the accounts was {sum(values)}: {values}")
        for key, value in zip(counter_keys(writer), (int(x or 0) for x in counters), strict=True):
            last = self._last.get(key, 0)
            if value < last and not self._work.may_lose_tail:
                at = f"{time.time():.3f}"
                self.went_back.append(f"{self._work.name} {key} was {last}, then {value}, at {at}")
            self._last[key] = value


def read_stored(client: Any, writer: int) -> Stored:
    """The data that a database holds of a writer. Raises RedisError."""
    return Stored(
        counters=[int(x or 0) for x in client.mget(counter_keys(writer))],
        appended=[int(x) for x in client.lrange(list_key(writer), 0, -1)],
        transfers=[int(x) for x in client.lrange(transfers_key(writer), 0, -1)],
        accounts=[int(x or 0) for x in client.mget(account_keys(writer))],
    )


def _stored(work: Work, writer: int) -> Stored:
    for attempt in range(ATTEMPTS_MAX):
        client = client_of(work, attempt)
        try:
            return read_stored(client, writer)
        except redis.RedisError:
            if attempt == ATTEMPTS_MAX - 1:
                raise
            time.sleep(0.5)
        finally:
            client.close()
    raise AssertionError("not reached")


def _check(place: Place, watchers: list[Watcher]) -> dict[str, Any]:
    total = Findings()
    databases: dict[str, Any] = {}
    for work in place.read_works():
        journals = [parse(place.journal(work, n).read_text().splitlines(keepends=True)) for n in range(work.writers)]
        acked = 0
        for writer, entries in enumerate(journals):
            where = f"{work.name} writer {writer}"
            findings = compare(where, entries, _stored(work, writer), kills=place.kills_of(work))
            acked += findings.acked
            total.acked += findings.acked
            total.in_doubt += findings.in_doubt
            for name in ("lost", "lost_allowed", "doubled", "torn"):
                getattr(total, name).extend(getattr(findings, name))
        pause_s, began = longest_pause(journals)
        databases[work.name] = {"acked": acked, "longest_pause_s": round(pause_s, 3), "longest_pause_at": round(began, 3)}
    for watcher in watchers:
        total.torn += watcher.torn
        total.lost += watcher.went_back
    counts = {name: len(value) for name, value in asdict(total).items() if isinstance(value, list)}
    examples = [*total.lost, *total.doubled, *total.torn]
    return {
        "acked": total.acked,
        "in_doubt": total.in_doubt,
        "looks": sum(w.looks for w in watchers),
        **counts,
        "examples": examples[:SHOWN_MAX],
        "allowed_examples": total.lost_allowed[:5],
        "databases": databases,
    }


def main() -> None:
    """Watch until standard input ends, then compare."""
    place = Place(Path(sys.argv[1]))
    stop = threading.Event()
    watchers = [Watcher(work, stop) for work in place.read_works()]
    for watcher in watchers:
        watcher.start()
    sys.stdin.read()
    stop.set()
    for watcher in watchers:
        watcher.join(timeout=20)
    print(json.dumps(_check(place, watchers)), flush=True)


if __name__ == "__main__":
    main()
