"""The plan of a chaos run on machines, and the clients' choice of a node."""

from chaos.load import Work
from chaos.machines.plan import LASTS_S, Fault, Request, strikes, wishes
from chaos.machines.run import MachinesResult

WORK = Work("strict", "10.0.0.1", 10_000, 3, 40.0, may_lose_tail=False, others=("10.0.0.2", "10.0.0.3"))


def test_a_seed_decides_the_plan_whatever_its_length() -> None:
    assert strikes(7, 50)[:20] == strikes(7, 20)
    assert strikes(7, 20) != strikes(8, 20)
    assert wishes(7, 50)[:20] == wishes(7, 20)


def test_every_fault_and_request_occurs_for_as_long_as_it_may() -> None:
    found = strikes(1, 400)
    assert {strike.fault for strike in found} == set(Fault)
    assert all(LASTS_S[s.fault][0] <= s.lasts_s <= LASTS_S[s.fault][1] for s in found)
    assert {wish.request for wish in wishes(1, 50)} == set(Request)


def test_a_client_goes_to_the_next_node() -> None:
    assert [WORK.address_of(n) for n in range(4)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]


def test_a_run_is_good_only_if_the_checker_has_found_nothing_and_everything_is_at_rest() -> None:
    whole = {"lost": 0, "doubled": 0, "torn": 0}
    assert MachinesResult(1, 60.0, found=whole, converged_s=3.0).is_good
    assert not MachinesResult(1, 60.0, converged_s=3.0).is_good, "the checker has not reported"
    assert not MachinesResult(1, 60.0, found=whole).is_good, "it did not come to rest"
    assert not MachinesResult(1, 60.0, found=whole | {"lost": 1}, converged_s=3.0).is_good
    assert not MachinesResult(1, 60.0, found=whole, converged_s=3.0, complaints=["a node is down"]).is_good
