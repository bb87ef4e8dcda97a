"""What an endpoint process may do without a proof, and how long a proof holds."""

from dataclasses import replace

import pytest

from shardwright.endpoint.gate import Change, Gate
from shardwright.endpoint.lease import HOLD_BEFORE_S, NEVER, NO_PROOF, PROOF_S, LeaseStanding
from shardwright.endpoint.protocol import ALONE_MAX_S, HOLD_MAX_S, EndpointSpec, LeaseTerms, Target
from shardwright.endpoint.session import Session
from shardwright.endpoint.setup import Phase
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid
from shardwright.model.lease import LeaseSeen

ME = "me"
OLD, NEW = (Target(ShardUid(n), n, "127.0.0.1", 1000 + n, f"run-{n}") for n in (1, 2))
UID = EndpointUid("1:1")


def terms(version: int, *, needed: bool = True, names: tuple[str, ...] = (), generation: int = 1) -> LeaseTerms:
    return LeaseTerms(version, generation, needed, names)


def gate(lease: LeaseTerms | None = None, *, target: Target | None = OLD, strict: bool = False) -> Gate:
    spec = EndpointSpec(UID, DatabaseUid(1), "db", "127.0.0.1", 10_000, target, is_strict=strict, lease=lease)
    return Gate(spec, standing=LeaseStanding(ME))


def proven(at: float = 10.0) -> Gate:
    made = gate(terms(1))
    made.prove(OLD, at, at)
    return made


# -- who needs a proof -------------------------------------------------------------------------------------------------


def test_without_a_lease_no_proof_is_needed() -> None:
    made = gate()
    assert (made.is_open, made.proof_until, made.asks_for_proof, made.is_leased) == (True, None, False, False)


def test_a_process_needs_a_proof_from_its_start() -> None:
    for needed in (True, False):
        made = gate(terms(7, needed=needed, names=("another",)))
        assert (made.is_open, made.proof_until, made.asks_for_proof) == (False, NEVER, True)


def test_a_process_that_is_named_needs_none() -> None:
    made = gate(terms(1, needed=False, names=(ME,)))
    assert (made.is_open, made.proof_until, made.asks_for_proof) == (True, None, False)


def test_a_waiver_ends_with_the_first_proof() -> None:
    made = gate(terms(1, needed=False, names=(ME,)))
    flow = made.flow
    made.tell_lease(terms(2, names=(ME,)))
    assert (made.is_open, made.proof_until, made.asks_for_proof) == (True, None, True), "no client waits for it"
    assert made.standing.seen(UID) == LeaseSeen(UID, 2, True)
    made.prove(OLD, 10.0, 10.1)
    assert (made.is_open, made.proof_until) == (True, 10.0 + PROOF_S)
    assert made.standing.seen(UID) == LeaseSeen(UID, 2, False)
    assert made.flow == flow, "no connection has to look again"


def test_a_proof_that_comes_too_late_does_not_end_a_waiver() -> None:
    made = gate(terms(1, needed=False, names=(ME,)))
    made.tell_lease(terms(2, names=(ME,)))
    made.prove(OLD, 10.0, 10.0 + PROOF_S - HOLD_BEFORE_S)
    assert (made.is_open, made.proof_until, made.standing.is_waived) == (True, None, True)


def test_a_waiver_of_a_server_that_never_answers_can_be_given_up_if_proofs_are_wanted() -> None:
    made = gate(terms(1, needed=False, names=(ME,)))
    made.end_waiver()
    assert made.standing.is_waived, "no one wants proofs"
    made.tell_lease(terms(2, names=(ME,)))
    made.end_waiver()
    assert (made.standing.is_waived, made.is_open) == (False, False)


@pytest.mark.parametrize("version", [1, 2])
def test_only_a_higher_version_applies(version: int) -> None:
    made = proven()
    made.tell_lease(terms(2))
    made.tell_lease(terms(version, needed=False, names=(ME,)))
    assert (made.standing.is_waived, made.proof_until) == (False, 13.0)
    made.tell_lease(terms(3, needed=False, names=(ME,)))
    assert (made.standing.is_waived, made.proof_until) == (True, None)


def test_a_specification_without_a_lease_changes_nothing() -> None:
    made = proven()
    made.serve(replace(made.spec, lease=None))
    assert made.proof_until == 13.0


def test_a_specification_with_a_late_lease_changes_nothing() -> None:
    made = proven()
    made.serve(replace(made.spec, lease=terms(1, needed=False, names=(ME,))))
    assert made.proof_until == 13.0


def test_a_process_that_is_named_no_longer_needs_a_proof_at_once() -> None:
    made = gate(terms(1, needed=False, names=(ME,)))
    made.tell_lease(terms(2))
    assert (made.is_open, made.proof_until) == (False, NEVER)


def test_a_waiver_does_not_hold_for_an_older_server() -> None:
    """It was replaced without a proof of its end, and the process beside it does not know that yet."""
    made = proven()
    made.tell_lease(terms(2, needed=False, names=(ME,), generation=2))
    assert (made.standing.is_waived, made.proof_until) == (True, 13.0)
    assert made.serve(replace(made.spec, target=NEW)) is Change.MOVED
    assert (made.is_open, made.proof_until) == (True, None)


def test_target_and_waiver_come_together() -> None:
    made = proven()
    lease = terms(2, needed=False, names=(ME,), generation=2)
    assert made.serve(replace(made.spec, target=NEW, lease=lease)) is Change.MOVED
    assert (made.is_open, made.proof_until) == (True, None)


def test_in_strict_mode_confirmations_replace_proofs() -> None:
    made = gate(terms(1), strict=True)
    assert (made.is_open, made.proof_until, made.asks_for_proof, made.is_leased) == (True, None, False, False)
    made.serve(replace(made.spec, is_strict=False))
    assert (made.is_open, made.proof_until) == (False, NEVER)


# -- how long a proof holds --------------------------------------------------------------------------------------------


def test_it_counts_from_the_question() -> None:
    made = gate(terms(1))
    made.prove(OLD, 10.0, 11.5)
    assert made.proof_until == 10.0 + PROOF_S


def test_an_answer_after_a_long_sleep_proves_nothing() -> None:
    made = proven(10.0)
    made.prove(OLD, 10.4, 18.0)
    assert made.proof_until == 13.0
    assert made.is_outdated(18.0)
    assert not made.is_open


def test_new_commands_wait_before_it_ends_and_go_on_with_the_next() -> None:
    made = proven(10.0)
    flow = made.flow
    made.look_at_proof(11.9)
    assert (made.is_open, made.flow) == (True, flow)
    made.look_at_proof(12.0)
    assert (made.is_open, made.flow) == (False, flow + 1)
    assert not made.is_outdated(12.9), "replies of what was sent before still pass"
    made.prove(OLD, 12.5, 12.6)
    assert (made.is_open, made.flow, made.proof_until) == (True, flow + 2, 15.5)


def test_a_proof_is_of_one_server() -> None:
    made = proven(10.0)
    assert made.serve(replace(made.spec, target=NEW)) is Change.MOVED
    assert (made.is_open, made.proof_until) == (False, NEVER)
    made.prove(OLD, 11.0, 11.0)
    assert made.proof_until == NEVER
    made.prove(NEW, 11.0, 11.0)
    assert made.proof_until == 14.0


def test_an_undone_handoff_keeps_the_proof() -> None:
    made = proven(10.0)
    made.begin_hold(OLD, NEW, 1.0)
    assert not made.asks_for_proof, "the old primary is about to be fenced"
    assert made.release(OLD) is Change.MOVED
    assert (made.is_open, made.proof_until) == (True, 13.0)


# -- a session ---------------------------------------------------------------------------------------------------------

PING = b"*1\r\n$4\r\nPING\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n"
GET = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"


def ready(made: Gate) -> Session:
    """A session whose server connection is verified."""
    session = Session(made, uid=1)
    session.client_data(GET, 0.0)
    session.backend_opened(OLD)
    info = b"# Server\r\nrun_id:run-1\r\nrole:master\r\n"
    hello = b"*2\r\n$2\r\nid\r\n:1\r\n"
    session.backend_data(hello + b"$%d\r\n%b\r\n" % (len(info), info) + b"+OK\r\n-ERR\r\n", 0.0)
    assert session.phase is Phase.READY
    session.to_backend.clear()
    session.backend_data(b"$1\r\nb\r\n", 0.0)
    session.to_client.clear()
    return session


def test_commands_wait_without_a_proof_and_are_sent_with_the_next() -> None:
    made = proven(10.0)
    session = ready(made)
    made.look_at_proof(12.5)
    session.client_data(SET, 1.0)
    assert (session.to_backend, session.to_client) == ([], [])
    made.prove(OLD, 12.6, 12.6)
    session.gate_changed(1.5)
    assert session.to_backend == [SET]


def test_commands_that_wait_for_too_long_are_not_executed() -> None:
    made = proven(10.0)
    session = ready(made)
    made.look_at_proof(12.5)
    session.client_data(SET, 1.0)
    session.tick(1.0 + HOLD_MAX_S)
    assert session.to_client == []
    session.tick(1.0 + ALONE_MAX_S)
    assert session.to_client == [NO_PROOF]


def test_a_wait_for_a_proof_does_not_shorten_the_next_wait() -> None:
    """With the proof there is another primary, and a connection to it must be opened."""
    made = proven(10.0)
    session = ready(made)
    made.look_at_proof(12.5)
    session.client_data(SET, 1.0)
    made.serve(replace(made.spec, target=NEW, lease=terms(2, needed=False, names=(ME,), generation=2)))
    session.gate_changed(8.0)
    session.tick(8.1)
    assert session.to_client == []
    assert session.needs_backend


def test_what_is_in_flight_when_the_proof_ends_is_not_answered_by_the_server() -> None:
    made = proven(10.0)
    session = ready(made)
    session.client_data(SET + GET, 1.0)
    assert session.to_backend == [SET + GET]
    session.leave_unproven(5.0)
    assert session.wants_drop
    assert b"".join(session.to_client).startswith(b"-ERR shardwright: outcome unknown")
    assert session.needs_backend, "the read is repeated, as after the loss of a server"


def test_replies_of_a_former_server_are_not_awaited() -> None:
    made = proven(10.0)
    session = ready(made)
    session.client_data(SET, 1.0)
    made.serve(replace(made.spec, target=NEW, lease=terms(2, needed=False, names=(ME,), generation=2)))
    session.gate_changed(1.1)
    assert session.wants_drop
    assert b"".join(session.to_client).startswith(b"-ERR shardwright: outcome unknown")


def test_a_former_server_is_left_although_there_is_no_proof_of_the_next() -> None:
    made = proven(10.0)
    session = ready(made)
    session.client_data(SET, 1.0)
    made.serve(replace(made.spec, target=NEW))
    session.gate_changed(1.1)
    assert session.wants_drop
    assert b"".join(session.to_client).startswith(b"-ERR shardwright: outcome unknown")
