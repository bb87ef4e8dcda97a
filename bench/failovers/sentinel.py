"""The peer: three servers and three sentinels on the cluster's machines, as Redis' own documents set them up.

Every write of its clients goes to the primary that the sentinels name. It acknowledges writes that no replica
has, so it may lose them; how many is part of the result.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from demo.cluster import DemoFailed
from testkit.machines.machine import Machine

NAME = "peer"
SERVER_PORT, SENTINEL_PORT = 7000, 26379
DOWN_AFTER_MS = 3000
READY_S = 60.0
_POLL_S = 0.1
_ONCE: dict[str, Any] = {"socket_connect_timeout": 1, "socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}

_SERVER = """bind {address}
port {port}
protected-mode no
dir {directory}
appendonly yes
save ""
repl-timeout 10
{follows}
"""
_SENTINEL = """bind {address}
port {port}
protected-mode no
dir {directory}
sentinel monitor {name} {primary} {server_port} 2
sentinel down-after-milliseconds {name} {down_after}
sentinel failover-timeout {name} 20000
sentinel parallel-syncs {name} 1
"""


class Peer:
    """See the module's text."""

    def __init__(self, machines: Sequence[Machine], binary: Path) -> None:
        self._machines = list(machines)
        self._binary = str(binary)

    @property
    def addresses(self) -> list[str]:
        """Of its machines."""
        return [machine.address for machine in self._machines]

    def start(self) -> None:
        """Write the files and start everything. Raises MachinesFailed, DemoFailed."""
        first = self._machines[0].address
        for machine in self._machines:
            place = self._place(machine)
            place.mkdir(parents=True, exist_ok=True)
            inside = f"/var/lib/shardwright/{NAME}"
            follows = "" if machine.address == first else f"replicaof {first} {SERVER_PORT}"
            (place / "server.conf").write_text(
                _SERVER.format(address=machine.address, port=SERVER_PORT, directory=inside, follows=follows)
            )
            (place / "sentinel.conf").write_text(
                _SENTINEL.format(
                    address=machine.address,
                    port=SENTINEL_PORT,
                    directory=inside,
                    name=NAME,
                    primary=first,
                    server_port=SERVER_PORT,
                    down_after=DOWN_AFTER_MS,
                )
            )
            self.start_on(machine)
        self.wait_whole()

    def start_on(self, machine: Machine) -> None:
        """Start server and sentinel, after a boot of the machine too: both keep what they learned in their files."""
        inside = f"/var/lib/shardwright/{NAME}"
        machine.spawn("peer-server", self._binary, f"{inside}/server.conf")
        machine.spawn("peer-sentinel", self._binary, f"{inside}/sentinel.conf", "--sentinel")

    def client(self) -> Any:
        """A client that asks the sentinels, and repeats nothing."""
        return self._sentinel().master_for(NAME, **_ONCE)

    def primary(self) -> str:
        """The address of the primary, as a sentinel says. Raises redis.RedisError."""
        return str(self._sentinel().discover_master(NAME)[0])

    def move_to(self, address: str) -> None:
        """Let the primary be on this machine. Raises DemoFailed."""
        deadline = time.monotonic() + READY_S
        while self.primary() != address:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the peer's primary is not at {address} after {READY_S:.0f} s")
            with suppress(redis.RedisError):
                for each in self.addresses:
                    with redis.Redis(each, SERVER_PORT, **_ONCE) as server:
                        server.config_set("replica-priority", 1 if each == address else 100)
                # The sentinels read the priority of a replica every ten seconds.
                with redis.Redis(self.addresses[0], SENTINEL_PORT, **_ONCE) as sentinel:
                    sentinel.execute_command("SENTINEL", "FAILOVER", NAME)
            time.sleep(2.0)
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until every sentinel knows the others and the primary, and both replicas follow it. Raises DemoFailed."""
        deadline = time.monotonic() + READY_S
        while why := self._missing():
            if time.monotonic() > deadline:
                raise DemoFailed(f"the peer is not whole after {READY_S:.0f} s: {why}")
            time.sleep(_POLL_S)

    def _missing(self) -> str:
        try:
            primary = self.primary()
            for each in self.addresses:
                with redis.Redis(each, SENTINEL_PORT, decode_responses=True, **_ONCE) as sentinel:
                    found: dict[str, Any] = sentinel.sentinel_master(NAME)
                if found["ip"] != primary or found["num-other-sentinels"] != len(self._machines) - 1 or found["is_sdown"]:
                    return f"the sentinel at {each} sees {found['ip']}, flags {found['flags']}"
                with redis.Redis(each, SERVER_PORT, decode_responses=True, **_ONCE) as server:
                    info: dict[str, Any] = server.info("replication")
                if each != primary and info.get("master_link_status") != "up":
                    return f"the server at {each} does not follow"
                if each == primary and info.get("connected_slaves") != len(self._machines) - 1:
                    return f"the primary at {each} has {info.get('connected_slaves')} replicas"
        except (redis.RedisError, KeyError) as e:
            return f"{type(e).__name__}: {e}"
        return ""

    def _sentinel(self) -> Sentinel:
        places = [(address, SENTINEL_PORT) for address in self.addresses]
        return Sentinel(places, sentinel_kwargs=_ONCE)

    @staticmethod
    def _place(machine: Machine) -> Path:
        return machine.directory / "state" / NAME
