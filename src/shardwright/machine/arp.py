"""Tells the neighbors of this machine that an address is here now: ARP frames of our own.

Called by the agent. A request and a reply, because some neighbors believe only one of the two. Needs CAP_NET_RAW.
"""

import socket
import struct
from ipaddress import IPv4Address

_ARP = 0x0806
_ETHERNET, _IPV4 = 1, 0x0800
_REQUEST, _REPLY = 1, 2
_EVERYONE, _NO_ONE = b"\xff" * 6, bytes(6)
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")


def announce(address: str, interface: str) -> bool:
    """Send both frames once. Returns whether there was something to send: an interface that is no Ethernet has no ARP.
    Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((interface, 0))
        _, _, _, kind, hardware = link.getsockname()
        if kind != _ETHERNET or len(hardware) != len(_NO_ONE):
            return False
        for frame in frames(address, hardware):
            link.send(frame)
    return True


def frames(address: str, hardware: bytes) -> tuple[bytes, bytes]:
    """The request and the reply which say that the address is at this hardware address. Pure."""
    packed = IPv4Address(address).packed

    def frame(operation: int, target: bytes) -> bytes:
        return _FRAME.pack(_EVERYONE, hardware, _ARP, _ETHERNET, _IPV4, 6, 4, operation, hardware, packed, target, packed)

    return frame(_REQUEST, _NO_ONE), frame(_REPLY, _EVERYONE)
