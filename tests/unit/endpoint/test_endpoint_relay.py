"""What a process that is being replaced answers: what is true of it and of the process that takes its place."""

from typing import Any

from shardwright.endpoint.relay import RELAYED, merged, merged_status
from shardwright.endpoint.wire import lease_to, seen_to
from shardwright.model.ids import EndpointUid
from shardwright.model.lease import LeaseSeen
from shardwright.model.seen import BusyCommand, EndpointSeen, EndpointState

ONE, TWO = EndpointUid("1:1"), EndpointUid("2:1")
BUSY = (BusyCommand("10.0.0.1:5", "EVAL"),)


def held(*, was_held: bool = True, is_drained: bool = True, busy: int = 0) -> dict[str, Any]:
    return {"was_held": was_held, "is_drained": is_drained, "busy": [{"client": "c"}] * busy}


def status(*endpoints: EndpointSeen, commands: int = 1, leases: tuple[LeaseSeen, ...] = ()) -> dict[str, Any]:
    return {
        "pid": 7,
        "node": 1,
        "version": "0.1.0",
        "endpoints": [seen_to(one) for one in endpoints],
        "totals": {"commands": commands},
        "leases": [lease_to(one) for one in leases],
    }


def test_a_hold_is_one_only_if_both_hold() -> None:
    assert merged("hold", held(), held()) == held()
    assert not merged("hold", held(), held(was_held=False))["was_held"]
    assert not merged("hold", held(was_held=False), held())["was_held"]
    assert not merged("hold", held(), held(is_drained=False, busy=1))["is_drained"]
    assert len(merged("hold", held(busy=1), held(busy=2))["busy"]) == 3


def test_a_release_tells_the_longest_pause_and_all_commands() -> None:
    own = {"pause_ms": 3.0, "held_commands": 2, "generation": 4}
    other = {"pause_ms": 5.0, "held_commands": 1, "generation": 3}
    assert merged("release", own, other) == {"pause_ms": 5.0, "held_commands": 3, "generation": 4}


def test_connections_are_counted_in_both() -> None:
    assert merged("pass_along", {"passed": 1, "remaining": 2}, {"passed": 3, "remaining": 4}) == {
        "passed": 4,
        "remaining": 6,
    }
    for request in RELAYED - {"hold", "release", "pass_along"}:
        assert merged(request, {}, {"x": 1}) == {}


def test_an_endpoint_that_was_passed_on_is_what_the_new_process_says_of_it() -> None:
    here = EndpointSeen(ONE, EndpointState.DRAINING, 4, 5, connections=2, busy=BUSY, ended=("a",), server_silent_s=1.0)
    there = EndpointSeen(ONE, EndpointState.LISTENING, 3, None, connections=5, address="10.0.0.1")
    rest = EndpointSeen(TWO, EndpointState.LISTENING, 9)
    found = merged_status(status(here, rest, commands=2), status(there, commands=3))
    (one, two) = found["endpoints"]
    assert (one["state"], one["connections"], one["address"]) == ("listening", 7, "10.0.0.1")
    assert (one["generation"], one["held_generation"]) == (3, 5), "the one that is behind is told again; one of them holds"
    assert (len(one["busy"]), one["ended"], one["server_silent_s"]) == (1, ["a"], 1.0)
    assert two == seen_to(rest)
    assert (found["pid"], found["version"], found["totals"]) == (7, "0.1.0", {"commands": 5})


PASSED = EndpointSeen(ONE, EndpointState.LISTENING, 3)


def merged_lease(own: LeaseSeen, other: LeaseSeen | None) -> list[dict[str, Any]]:
    there = status(PASSED, leases=() if other is None else (other,))
    return list(merged_status(status(PASSED, leases=(own,)), there)["leases"])


def test_a_lease_is_shown_when_both_processes_have_shown_it() -> None:
    shown = LeaseSeen(ONE, 4, is_waived=False)
    assert merged_lease(shown, shown) == [lease_to(shown)]
    assert merged_lease(shown, None) == [], "the new process may have clients and knows of no lease yet"
    assert merged_lease(shown, LeaseSeen(ONE, 3, is_waived=False)) == [lease_to(LeaseSeen(ONE, 3, is_waived=False))]
    assert merged_lease(LeaseSeen(ONE, 4, is_waived=True), shown)[0]["is_waived"]
    assert merged_lease(shown, LeaseSeen(ONE, 4, is_waived=True))[0]["is_waived"]
    assert merged_lease(shown, LeaseSeen(ONE, 4, False, unconfirmed_s=0.5))[0]["unconfirmed_s"] == 0.5


def test_a_lease_of_an_endpoint_that_was_not_passed_is_the_old_process_s_own() -> None:
    shown = LeaseSeen(TWO, 4, is_waived=True)
    assert merged_status(status(leases=(shown,)), status(PASSED))["leases"] == [lease_to(shown)]
