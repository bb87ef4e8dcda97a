"""A slow link: passes the frames of two interfaces on to each other, each some time later. Runs in the switch's namespace.

``python -m testkit.machines.delay PORT INNER OUTER SECONDS``: between a machine's port and one end of a cable, whose other
end, OUTER, is at the bridge. Ends with its standard input. Not every kernel has a queue that delays, so this does without.
Frames must be whole packets with checksums: ``send_plain`` turns off what an interface would leave to hardware.
"""

import array
import fcntl
import select
import socket
import struct
import sys
import time
from collections import deque

_ALL_FRAMES = 3
_OUTGOING = 4
"""What this process has sent itself comes back marked so."""
_FRAME_BYTES_MAX = 65_536
_QUEUE_FRAMES_MAX = 20_000
"""Like a router's: what comes when it is full is lost."""
_ETHTOOL = 0x8946
_SWITCHES = (0x17, 0x1F, 0x24)
"""Checksums by hardware, segments of TCP by hardware, and segments as late as possible: whether an interface uses them."""


def send_plain(interface: str) -> None:
    """Let the kernel send only whole packets with checksums at an interface of this thread's network. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for order in _SWITCHES:
            value = array.array("I", [order, 0])
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(any_socket, _ETHTOOL, request)


def main() -> int:
    names, outer, delay_s = sys.argv[1:3], sys.argv[3], float(sys.argv[4])
    send_plain(outer)
    sockets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES)) for _ in names]
    for name, each in zip(names, sockets, strict=True):
        each.bind((name, 0))
        each.setblocking(False)
    queues: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    print("ready", flush=True)
    while True:
        due = min((queue[0][0] for queue in queues if queue), default=None)
        timeout_s = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([sys.stdin, *sockets], [], [], timeout_s)
        if sys.stdin in readable:
            return 0
        for number, each in enumerate(sockets):
            if each in readable:
                _receive(each, queues[number], delay_s)
        for number, queue in enumerate(queues):
            _pass_on(queue, sockets[1 - number])


def _receive(source: socket.socket, queue: "deque[tuple[float, bytes]]", delay_s: float) -> None:
    for _ in range(64):
        try:
            frame, (_, _, kind, *_) = source.recvfrom(_FRAME_BYTES_MAX)
        except BlockingIOError:
            return
        if kind != _OUTGOING and len(queue) < _QUEUE_FRAMES_MAX:
            queue.append((time.monotonic() + delay_s, frame))


def _pass_on(queue: "deque[tuple[float, bytes]]", target: socket.socket) -> None:
    now = time.monotonic()
    while queue and queue[0][0] <= now:
        _, frame = queue.popleft()
        try:
            target.send(frame)
        except OSError:
            continue  # The interface is down, or its queue is full: the frame is lost, as on any link.


if __name__ == "__main__":
    sys.exit(main())
