"""The frames that announce an address, byte by byte, and the mark of our addresses."""

import pytest

from shardwright.machine.arp import frames
from shardwright.machine.virtual_addresses import label_of

HARDWARE = bytes.fromhex("020000000001")


def test_a_request_and_a_reply_name_the_address_as_senders_and_as_targets() -> None:
    request, reply = frames("10.0.0.9", HARDWARE)
    start = "ffffffffffff0200000000010806000108000604"
    assert request.hex() == start + "00010200000000010a0000090000000000000a000009"
    assert reply.hex() == start + "00020200000000010a000009ffffffffffff0a000009"


@pytest.mark.parametrize(
    ("interface", "label"), [("eth0", "eth0:swvip"), ("enp0s31f6", "enp0s31f6:swvip"), ("enp129s0f1np1", "enp129s0f:swvip")]
)
def test_a_label_is_short_enough_for_the_kernel(interface: str, label: str) -> None:
    assert label_of(interface) == label
    assert len(label) <= 15
