"""A small real daemon for tests of units: tells its service manager, gives signs of life, starts a child that outlives it.

``python -m tests.machines.stand_in_daemon --config FILE``. The child listens in the runtime directory, like an endpoint
process. SIGUSR1 makes the main loop hang, SIGUSR2 makes the daemon ill; the file ``<config>.order`` may say ``refuse`` (exit
status 78), ``late`` (never ready) or ``exhaust`` (a child that takes memory until the kernel ends it).
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

from shardwright.machine.identity_file import read_identity, write_identity
from shardwright.machine.notify import Notifier, show_life
from shardwright.machine.processes import is_running, python_environment, spawn_process
from shardwright.tasks import spawn

EXIT_SETTINGS = 78


def ensure_child(directory: Path) -> int:
    """Adopt the child of an earlier life, or start one. Returns its pid."""
    file = directory / "child.json"
    known = read_identity(file)
    if known is not None and is_running(known):
        return known.pid
    child = [sys.executable, "-m", "tests.machines.stand_in_daemon", "--child", str(directory / "child.sock")]
    identity = spawn_process(child, directory=directory, output=directory / "child.out", environment=python_environment())
    write_identity(file, identity)
    return identity.pid


def be_child(path: str) -> None:
    """Answer on the socket for ever: which service manager's variables it has."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            names = [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_"))]
            connection.sendall(" ".join(["alive", *names]).encode())
            connection.close()


def exhaust() -> None:
    """Take memory until the kernel ends this process."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * 1_000_000))


async def serve(order: str, directory: Path) -> None:
    ailment = ""

    def fall_ill() -> None:
        nonlocal ailment
        ailment = "the stand-in was made ill"

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, 3600)
    loop.add_signal_handler(signal.SIGUSR2, fall_ill)
    notifier = Notifier.take()
    notifier.status("starts")
    child = ensure_child(directory)
    if order != "late":
        notifier.ready(f"child {child}")
    if order == "exhaust":
        line = [sys.executable, "-m", "tests.machines.stand_in_daemon", "--exhaust"]
        spawn_process(line, directory=directory, output=directory / "exhaust.out", environment=python_environment())
    life = spawn("signs of life", show_life(notifier, lambda: ailment))
    await ended.wait()
    notifier.stopping("ends")
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    notifier.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--exhaust", action="store_true")
    parser.add_argument("--ended", action="store_true")
    given = parser.parse_args()
    if given.child:
        be_child(given.child)
    if given.exhaust:
        exhaust()
    if given.ended:
        with Path(f"{given.config}.ended").open("a") as results:
            results.write(f"{os.environ['SERVICE_RESULT']}\n")
        return 0
    file = Path(f"{given.config}.order")
    order = file.read_text().strip() if file.exists() else ""
    if order == "refuse":
        return EXIT_SETTINGS
    asyncio.run(serve(order, Path(os.environ["RUNTIME_DIRECTORY"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
