"""The IP addresses of this machine. Reads ``/proc``; asks no other program."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

Address = IPv4Address | IPv6Address


def own_addresses() -> tuple[Address, ...]:
    """All addresses at which other machines might reach this one: without loopback and link-local ones, IPv4 first."""
    found = (*_ipv4(_read("/proc/net/fib_trie")), *_ipv6(_read("/proc/net/if_inet6")))
    return tuple(a for a in dict.fromkeys(found) if not (a.is_loopback or a.is_link_local))


def is_own_address(address: Address) -> bool:
    """Whether a process can listen there: it belongs to this machine, as all of 127.0.0.0/8 does."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _ipv4(text: str) -> list[Address]:
    """In the kernel's routing tables, each of the machine's own addresses is followed by this line."""
    found: list[Address] = []
    last = ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"] and len(words) > 1:
            last = words[1]
        elif words == ["/32", "host", "LOCAL"] and last:
            found.append(ip_address(last))
    return found


def _ipv6(text: str) -> list[Address]:
    return [ip_address(int(line.split()[0], 16).to_bytes(16, "big")) for line in text.splitlines() if line.strip()]
