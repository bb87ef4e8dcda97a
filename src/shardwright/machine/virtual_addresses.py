"""Virtual addresses on the interfaces of this machine: added, removed and listed over rtnetlink.

Called by the agent, and by the daemon before it knows the store. An address that is added here carries a label that ends
with ``MARK``, and no other address is ever touched. Nothing is kept beyond a boot. Adding and removing need CAP_NET_ADMIN.

Not the program ``ip``: it refuses labels that do not begin with the whole name of the interface, which leaves no room for a
mark behind a long name, and it removes an address whatever its label is.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from shardwright.machine.capabilities import may_move_addresses

MARK = ":swvip"
"""The end of the label of our addresses."""
_LABEL_MAX = 15
"""Characters, by the kernel."""
_TIMEOUT_S = 1.0
"""The kernel answers at once."""

_HEADER, _ADDRESS, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
_NEW, _DELETE, _LIST = 20, 21, 22
_REQUEST, _ACKNOWLEDGE, _ALL, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_ERROR, _DONE = 2, 3
_PEER, _LOCAL, _LABEL = 1, 2, 3


@dataclass(frozen=True, slots=True)
class PlacedAddress:
    """One of our addresses on an interface."""

    address: str
    prefix_length: int
    interface: str


def add(placed: PlacedAddress) -> None:
    """Put the address on the interface. Without effect if it is there with our mark. Raises OSError: the interface does not
    exist, the capability is missing, or the machine has the address without our mark."""
    try:
        _ask(_NEW, _REQUEST | _ACKNOWLEDGE | _CREATE | _EXCLUSIVE, placed)
    except FileExistsError as e:
        if not any(found.address == placed.address for found in ours()):
            raise OSError(errno.EEXIST, "the machine has this address already, as one of its own") from e


def remove(placed: PlacedAddress) -> None:
    """Take the address away. Without effect if it is not there, or not with our mark. Raises OSError."""
    try:
        _ask(_DELETE, _REQUEST | _ACKNOWLEDGE, placed)
    except OSError as e:
        # The interface, or the address on it, is gone.
        if e.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
            raise


def ours() -> list[PlacedAddress]:
    """Our addresses on this machine, in ascending order. Raises OSError."""
    found = []
    for family, bits, index, attributes in _listed():
        label = attributes.get(_LABEL, b"").rstrip(b"\0").decode(errors="replace")
        if family == socket.AF_INET and label.endswith(MARK) and _LOCAL in attributes:
            found.append(PlacedAddress(str(IPv4Address(attributes[_LOCAL])), bits, socket.if_indextoname(index)))
    return sorted(found, key=lambda placed: int(IPv4Address(placed.address)))


def usable_interfaces() -> tuple[str, ...]:
    """The interfaces to which this process can add addresses, sorted. Empty: it lacks a capability. Raises OSError."""
    if not may_move_addresses():
        return ()
    return tuple(sorted(name for _, name in socket.if_nameindex() if name != "lo"))


def label_of(interface: str) -> str:
    """The label of our addresses on an interface."""
    return interface[: _LABEL_MAX - len(MARK)] + MARK


# -- rtnetlink -------------------------------------------------------------------------------------------------------------


def _ask(kind: int, flags: int, placed: PlacedAddress) -> None:
    """One request about one address. Raises OSError."""
    index = _index_of(placed.interface)
    packed = IPv4Address(placed.address).packed
    body = _ADDRESS.pack(socket.AF_INET, placed.prefix_length, 0, 0, index)
    body += _attribute(_LOCAL, packed) + _attribute(_PEER, packed)
    # The kernel compares the label when it deletes: an address without our mark stays.
    body += _attribute(_LABEL, label_of(placed.interface).encode() + b"\0")
    with _netlink() as netlink:
        netlink.send(_message(kind, flags, body))
        for answered, content in _messages(netlink):
            if answered == _ERROR:
                _raise_for(content)
                return


def _index_of(interface: str) -> int:
    """Raises OSError, with a number that Python's own error does not have."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as e:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from e


def _listed() -> Iterator[tuple[int, int, int, dict[int, bytes]]]:
    """Family, bits of the prefix, number of the interface and attributes of each address. Raises OSError."""
    with _netlink() as netlink:
        netlink.send(_message(_LIST, _REQUEST | _ALL, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)))
        for kind, content in _messages(netlink):
            if kind == _DONE:
                return
            if kind == _ERROR:
                _raise_for(content)
            if kind == _NEW:
                family, bits, _, _, index = _ADDRESS.unpack_from(content)
                yield family, bits, index, _attributes(content[_ADDRESS.size :])


def _raise_for(answer: bytes) -> None:
    """Raises OSError unless the kernel has done what was asked."""
    number = -struct.unpack_from("=i", answer)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    netlink.settimeout(_TIMEOUT_S)
    netlink.bind((0, 0))
    return netlink


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _messages(netlink: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each message that the kernel sends."""
    while True:
        data = netlink.recv(65_536)
        while len(data) >= _HEADER.size:
            length, kind, *_ = _HEADER.unpack_from(data)
            yield kind, data[_HEADER.size : length]
            data = data[_aligned(length) :]


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
