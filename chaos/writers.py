"""The writers' process: ``python -m chaos.writers DIR``. Writes until its input ends.

Each reply is in the writer's journal before the next write begins. At the end, the process prints the number of disconnects.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis

from chaos.journal import ACCOUNTS, Entry, WriteKind, counter_of, kind_of
from chaos.load import (
    Place,
    Work,
    account_key,
    client_of,
    connects_of,
    counter_key,
    list_key,
    transfers_key,
)

AFTER_ERROR_S = 0.02


class _Writer(threading.Thread):
    def __init__(self, work: Work, number: int, place: Place, stop: threading.Event) -> None:
        super().__init__(name=f"{work.name}-{number}", daemon=True)
        self._work = work
        self._number = number
        self._path = place.journal(work, number)
        self._stop_wanted = stop
        self.reconnects = 0

    def run(self) -> None:
        # Each writer begins at another node, if there are several.
        attempt = self._number
        client = client_of(self._work, attempt)
        turn, due = 0, time.monotonic()
        with self._path.open("w", buffering=1) as journal:
            while not self._stop_wanted.is_set():
                turn += 1
                began = time.time()
                try:
                    self._write(client, turn)
                    is_acked = True
                except redis.RedisError as e:
                    is_acked = False
                    print(f"{time.time():.3f} {self.name} {turn}: {type(e).__name__}: {e}", file=sys.stderr)
                    if self._work.others and not isinstance(e, redis.ResponseError):
                        self.reconnects += 1
                        client.close()
                        attempt += 1
                        client = client_of(self._work, attempt)
                journal.write(Entry(turn, is_acked, began, time.time()).line())
                if not is_acked:
                    time.sleep(AFTER_ERROR_S)
                due = max(due + 1 / self._work.writes_per_s, time.monotonic() - 0.05)
                time.sleep(max(0.0, due - time.monotonic()))
        self.reconnects += max(0, connects_of(client) - 1)
        client.close()

    def _write(self, client: Any, turn: int) -> None:
        me = self._number
        match kind_of(turn):
            case WriteKind.COUNT:
                client.incr(counter_key(me, counter_of(turn)))
            case WriteKind.APPEND:
                client.rpush(list_key(me), turn)
            case WriteKind.TRANSFER:
                amount, source = 1 + turn % 7, turn % ACCOUNTS
                pipe = client.pipeline(transaction=True)
                pipe.decrby(account_key(me, source), amount)
                pipe.incrby(account_key(me, (source + 3) % ACCOUNTS), amount)
                pipe.rpush(transfers_key(me), turn)
                pipe.execute()


def main() -> None:
    """Write until standard input ends."""
    place = Place(Path(sys.argv[1]))
    stop = threading.Event()
    writers = [_Writer(work, n, place, stop) for work in place.read_works() for n in range(work.writers)]
    for writer in writers:
        writer.start()
    sys.stdin.read()
    stop.set()
    for writer in writers:
        writer.join(timeout=20)
    print(sum(writer.reconnects for writer in writers), flush=True)


if __name__ == "__main__":
    main()
