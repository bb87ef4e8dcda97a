"""The crowd of the chaos runs: with an intact product each client succeeds, and each kind of damage is found."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.crowd import (
    CLIENTS,
    HALVES_BYTES,
    Bytewise,
    Client,
    Crowd,
    Download,
    HalfClose,
    Halves,
    Pipeline,
    Script,
    Unread,
    key,
)
from chaos.load import Work
from chaos.raw_connection import EndedBadly, RawConnection, command, head_of_set
from chaos.verdict import ClientKind, TurnOutcome
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from tests.integration.endpoint_harness import World, endpoint_world, wait_until

pytestmark = pytest.mark.server


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with endpoint_world(ServerKind.VALKEY, tmp_path, password="") as made:
        yield made


def work_of(world: World) -> Work:
    return Work("crowd", world.address, world.port, 1, 50.0, may_lose_tail=False)


def turns(crowd: Crowd, kind: ClientKind) -> int:
    return next(c.tally.outcomes.total() for c in crowd.clients if c.kind is kind)


def test_every_kind_of_client_is_in_the_crowd() -> None:
    assert [client.kind for client in CLIENTS] == list(ClientKind)


@pytest.mark.proof
@pytest.mark.parametrize("client", [Halves, Bytewise, Unread, Download, Pipeline, Script])
def test_nothing_is_noticed_while_nothing_happens(world: World, client: type[Client]) -> None:
    crowd = Crowd(work_of(world), 3, (client,))
    wait_until(lambda: turns(crowd, client.kind) > 0, timeout_s=30)
    (tally,) = crowd.finish()
    assert set(tally.outcomes) == {TurnOutcome.DONE}, tally
    assert (tally.lost, tally.doubled, tally.wrong, tally.noticed) == (0, 0, [], 0)


def test_a_half_close_is_answered_or_closed(world: World) -> None:
    crowd = Crowd(work_of(world), 3, (HalfClose,))
    wait_until(lambda: turns(crowd, ClientKind.HALF_CLOSE) > 5)
    (tally,) = crowd.finish()
    assert set(tally.outcomes) <= {TurnOutcome.DONE, TurnOutcome.CLOSED}, tally
    assert (tally.lost, tally.doubled, tally.wrong, tally.noticed) == (0, 0, [], 0)


@pytest.mark.parametrize("client", [Script, Pipeline])
def test_a_missing_acknowledged_increment_is_lost(world: World, client: type[Client]) -> None:
    crowd = Crowd(work_of(world), 3, (client,))
    wait_until(lambda: turns(crowd, client.kind) > 1)
    with world.connect() as other:
        other.incrby(key(client.kind), -1)
    (tally,) = crowd.finish()
    assert tally.lost == 1
    assert tally.doubled == 0


def test_a_value_of_another_request_is_wrong(world: World) -> None:
    crowd = Crowd(work_of(world), 3, (Download,))
    wait_until(lambda: turns(crowd, ClientKind.DOWNLOAD) > 0, timeout_s=30)
    with world.connect() as other:
        other.setrange(key(ClientKind.DOWNLOAD), 1000, "x" * 50)
    client = crowd.clients[0]
    wait_until(lambda: bool(client.tally.wrong), timeout_s=30)
    crowd.finish()


def test_an_error_and_an_end_are_distinguished(world: World) -> None:
    crowd = Crowd(work_of(world), 3, (Script,))
    wait_until(lambda: turns(crowd, ClientKind.SCRIPT) > 1)
    connection = RawConnection(work_of(world))
    connection.send(command("INCR", key(ClientKind.SCRIPT), "too", "many"))
    assert str(connection.reply()).startswith("ERR wrong number of arguments")
    connection.send(head_of_set("half", HALVES_BYTES))
    world.processes[NodeUid(1)].process.terminate()
    with pytest.raises(EndedBadly) as ended:
        connection.rest(10, threading.Event())
    assert ended.value.outcome is TurnOutcome.CLOSED
    connection.close()
    client = crowd.clients[0]
    wait_until(lambda: client.tally.noticed > 0)
    world.processes[NodeUid(1)].process.wait(5)
    world.start_process()
    world.serve()
    (tally,) = crowd.finish()
    assert {TurnOutcome.RESET, TurnOutcome.CLOSED} & set(tally.outcomes), tally
    assert tally.lost == 0
