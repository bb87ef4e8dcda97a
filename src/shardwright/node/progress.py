"""What the user reads while a call of ``join`` blocks for seconds.

Called by ``join``. Owns the thread that says it, and nothing of the call.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shardwright.node.services import SAY_EVERY_S, Say


@contextmanager
def saying(what: str, say: Say, *, every_s: float = SAY_EVERY_S) -> Iterator[None]:
    """Say ``what`` with the seconds since the beginning, every ``every_s`` until the context ends. A context that is shorter
    than that says nothing. ``say`` is called in a thread of its own, and never after the end."""
    began = time.monotonic()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            say(f"{what} ({time.monotonic() - began:.0f} s)")

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
