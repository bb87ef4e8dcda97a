"""How a holding process treats an endpoint that another process passes to it."""

from shardwright.endpoint.gate import Change, Gate
from shardwright.endpoint.protocol import EndpointSpec, Target
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid


def test_the_target_of_a_process_that_does_not_know_the_hold_does_not_end_it() -> None:
    old, new, later = (Target(ShardUid(n), n, "127.0.0.1", 20000 + n) for n in (1, 2, 3))
    gate = Gate(EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "db", "127.0.0.1", 10000, old))
    assert not gate.precedes_hold(old)
    assert gate.begin_hold(old, new, 1.0) is Change.HELD
    assert gate.precedes_hold(old)
    assert not gate.precedes_hold(new)
    assert not gate.precedes_hold(later)
