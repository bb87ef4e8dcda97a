"""How the parts evaluate their measurements."""

from array import array

import pytest

from bench import endpoint, evacuation, handoff, passing, reaction, store, strict
from bench.bare import BareFailed, opened
from bench.clients import rates_of
from bench.handoff import Run, Window, stamp
from bench.wire import VALUE_BYTES, _batches, encode
from demo.load import Calls, Outcome
from shardwright.model.database import AofPolicy, Persistence, ServerKind, ServerSecrets
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.server.config import ServerFile, render_config
from shardwright.server.protocol import ServerSettings


def test_a_bare_server_is_the_products_server_with_an_open_default_user() -> None:
    settings = ServerSettings(1 << 20, "noeviction", Persistence.DISABLED, AofPolicy.EVERY_SECOND, ())
    secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
    file = ServerFile(
        ServerKind.VALKEY, "9.1.2", ShardUid(1), 1, "127.0.0.1", 7000, "/data", "/data/log", settings, secrets
    )  # fmt: skip
    product = render_config(file).splitlines()
    bare = opened(render_config(file)).splitlines()
    differing = [(a, b) for a, b in zip(product, bare, strict=True) if a != b]
    assert [(a.split()[1], b) for a, b in differing] == [("default", "user default reset on nopass ~* &* +@all")]
    with pytest.raises(BareFailed):
        opened("port 7000\n")


def _run(*pauses_ms: float, gap_s: float = 1.0) -> Run:
    """One writer; one call of each length in the middle of its handoff, and one of 1 ms just before each request."""
    calls = Calls(array("d"), array("d"))
    windows = []
    for number, pause_ms in enumerate(pauses_ms):
        at = 1000.0 + number * gap_s
        calls.began.extend((at - 0.005, at + 0.021))
        calls.lasted.extend((0.001, pause_ms / 1000))
        windows.append(Window(at, at + 0.02, at + 0.03))
    return Run(windows, Outcome(acked=2 * len(pauses_ms), calls={"bench": [calls]}), actions_s=[0.5] * len(pauses_ms))


def test_the_pause_is_the_longest_call_that_overlaps_its_handoff() -> None:
    run = _run(4.0, 8.0, 6.0)
    assert run.pauses().p50 == pytest.approx(6.0)
    assert run.pauses().max == pytest.approx(8.0)
    assert run.slowest_ms() == pytest.approx(8.0)


def test_the_quiet_times_are_as_long_and_before_the_request() -> None:
    assert _run(4.0, 8.0).quiet().max == pytest.approx(1.0)


def test_the_reaction_is_from_the_request_to_the_hold() -> None:
    assert _run(4.0).reactions().p50 == pytest.approx(20.0)


def test_the_pause_on_etcd_may_be_a_fifth_longer_than_on_a_file() -> None:
    def goals(pause_ms: float) -> dict[str, bool]:
        part = store.report(_run(1.0), _run(10.0), _run(1.0), _run(pause_ms))
        return {f.name: f.goal.is_met for f in part.figures if f.goal is not None}

    assert goals(12.0) == {"pause p50": True, "POST to hold, p99": True}
    assert not goals(12.1)["pause p50"]


def test_a_handoff_that_no_write_overlaps_is_not_measured() -> None:
    run = _run(4.0)
    run.windows.append(Window(5000.0, 5000.1, 5000.2))
    assert run.pauses().count == 1


def test_handoffs_are_compared_with_both_peers() -> None:
    part = handoff.report(_run(6.0), _run(3.0), _run(600.0))
    p50 = part.figures[0]
    assert p50.to_peer == pytest.approx(0.01)
    assert p50.to_floor == pytest.approx(2.0)
    assert p50.goal is not None
    assert p50.goal.is_met
    assert part.troubles == []


def test_lost_writes_errors_and_disconnects_are_troubles() -> None:
    run = _run(6.0)
    run.outcome.lost.append("writer 1: list lacks 7")
    run.outcome.errors = 2
    run.outcome.error_texts = ["writer 1 set: TimeoutError"]
    run.outcome.disconnects = 1
    troubles = handoff.report(run, _run(3.0), _run(600.0)).troubles
    assert troubles == ["writer 1: list lacks 7", "writer 1 set: TimeoutError", "1 lost writes", "2 errors", "1 disconnects"]


def test_losses_of_a_peer_are_reported_but_are_no_trouble_of_the_product() -> None:
    peer = _run(600.0)
    peer.outcome.lost.append("bare-writer-1: list lacks 7")
    part = handoff.report(_run(6.0), _run(3.0), peer)
    assert part.troubles == []
    assert part.notes[-1] == "lost by hand: 0; lost by FAILOVER: 1"


def test_times_of_the_api_are_read() -> None:
    assert stamp("1970-01-01T00:00:01.5Z") == 1.5
    assert stamp("1970-01-01T00:00:01.250000+00:00") == 1.25


# -- evacuation --------------------------------------------------------------------------------------------------------


def _pair(seconds: float, bare_s: float) -> evacuation.Pair:
    states = {
        "m-1": {"planned": 0.1, "starting": 0.2, "syncing": 0.5, "handoff": 1.5, "cleaning": 1.6, "done": seconds - 0.1}
    }
    return evacuation.Pair(evacuation.Moved(seconds, states), bare_s)


def test_an_evacuation_is_a_share_of_the_bare_rate() -> None:
    pairs = [_pair(2.0, 1.0), _pair(4.0, 3.0), _pair(2.0, 1.2)]
    part = evacuation.report(pairs, pairs, total_bytes=1_000_000_000)
    rate, share, best, *_ = part.figures
    assert rate.ours == pytest.approx(500.0)
    assert share.ours == pytest.approx(0.6)
    assert best.ours == pytest.approx(0.5)
    assert share.goal is not None
    assert share.goal.is_met


def test_the_report_states_what_the_next_goal_needs() -> None:
    part = evacuation.report([_pair(2.0, 1.2)], [_pair(2.0, 1.2)], total_bytes=1_000_000_000)
    assert "may take 1.50 s: 0.50 s less than the 2.00 s" in part.notes[1]
    part = evacuation.report([_pair(2.0, 1.8)], [_pair(2.0, 1.8)], total_bytes=1_000_000_000)
    assert part.notes[1] == "0.80 of the bare rate is reached"


def test_the_predicted_end_counts_after_the_first_tenth_and_not_in_the_first_action() -> None:
    pairs = [_pair(2.0, 1.2), _pair(2.0, 1.2)]
    pairs[0].moved.foretold = [(1.0, 9.0)]
    pairs[1].moved.foretold = [(0.1, 9.0), (0.5, 1.7), (1.0, 0.8), (1.5, 0.5)]
    assert pairs[1].moved.eta_errors == pytest.approx([0.1, 0.1, 0.0])
    part = evacuation.report(pairs, pairs, total_bytes=1_000_000_000)
    figure = next(f for f in part.figures if f.name.startswith("foretold end"))
    assert figure.ours == pytest.approx(0.1)
    assert figure.goal is not None
    assert figure.goal.is_met


def test_phases_last_from_one_state_to_the_next() -> None:
    found = evacuation.phases([_pair(2.0, 1.0).moved])
    assert found == pytest.approx({"planned": 0.1, "starting": 0.3, "syncing": 1.0, "handoff": 0.1, "cleaning": 0.3})


def test_a_move_that_was_observed_once_has_no_phases() -> None:
    assert evacuation.phases([evacuation.Moved(1.0, {"m-1": {"done": 0.9}})]) == {}


# -- endpoint and reaction ---------------------------------------------------------------------------------------------


def test_the_endpoint_is_compared_with_a_direct_connection() -> None:
    ours = {1: [endpoint.Sample(20_000, 10.0, 30.0), endpoint.Sample(30_000, 10.0, 20.0)]}
    direct = {1: [endpoint.Sample(50_000, 5.0), endpoint.Sample(50_000, 5.0)]}
    throughput, server, both = endpoint.report(ours, direct, client="own").figures
    assert throughput.to_floor == pytest.approx(0.5)
    assert server.to_floor == pytest.approx(2.0)
    assert both.ours == pytest.approx(35.0)


def test_the_wait_of_busy_clients_has_a_goal_for_the_median_of_the_moves() -> None:
    part = passing.report([20.0, 30.0, 90.0], [5.0, 6.0, 7.0], [1.0, 2.0, 3.0], idle=8_000)
    assert [(f.ours, f.floor) for f in part.figures[:2]] == [(30.0, 6.0), (90.0, 7.0)]
    assert part.figures[0].goal is not None
    assert part.figures[0].goal.is_met


def test_reactions_have_a_goal_for_their_99th_percentile() -> None:
    part = reaction.report(_run(4.0, 5.0), [2.0, 3.0])
    assert part.figures[1].ours == pytest.approx(20.0)
    assert part.figures[1].goal is not None
    assert part.figures[1].goal.is_met


# -- clients -----------------------------------------------------------------------------------------------------------


def test_strict_mode_is_compared_with_the_default_and_with_wait_by_hand() -> None:
    rates = {strict.STRICT: 100.0, strict.DEFAULT: 200.0, strict.BY_HAND: 400.0, strict.DIRECT: 800.0}
    case = strict.Case(1, 1)
    samples = {(case, side): [strict.Sample(rate, array("d", [1000 / rate]))] for side, rate in rates.items()}
    part = strict.report(samples)
    p50, _, writes = part.figures
    assert (p50.ours, p50.to_peer, p50.to_floor) == (10.0, 2.0, 4.0)
    assert (writes.ours, writes.to_peer, writes.to_floor) == (100.0, 0.5, 0.25)
    assert "800/s" in part.notes[-1]


def test_the_rates_of_redis_benchmark_are_read() -> None:
    text = '"test","rps","avg_latency_ms"\n"SET","50000.5","0.1"\n"GET","60000.0","0.1"\n'
    assert rates_of(text) == {"SET": 50000.5, "GET": 60000.0}
    assert rates_of("Could not connect") == {}


def test_commands_are_written_as_servers_read_them() -> None:
    assert encode(b"SET", b"a", b"") == b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n"


def test_the_same_seed_gives_the_same_data() -> None:
    first, second, other = (b"".join(_batches(150, seed)) for seed in (1, 1, 2))
    assert first == second != other
    assert first.count(b"key:") == 150
    assert len(first) > 150 * VALUE_BYTES
