"""A real etcd for tests: one or three members on this machine, with the flags of a cluster's own etcd.

Starts processes and ends exactly those. Each process that uses this module has a loopback address of its own, so no other
test takes a member's port between its end and its next start. Data directories are the test's.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography.x509 import ObjectIdentifier

from shardwright.machine.processes import end, is_running, send, server_environment, spawn_process
from shardwright.model.seen import ProcessIdentity
from shardwright.model.trust import CertificateRole
from shardwright.store.etcd_connection import trust
from shardwright.store.settings import EtcdLimits, EtcdSettings
from shardwright.trust.files import MemberFiles
from testkit.certificates import Members, members
from testkit.deadlines import until_async

REQUIRE = "SHARDWRIGHT_REQUIRE_ETCD"
"""Environment variable; 1: a test that finds no etcd fails instead of being skipped."""
PROGRAMS = {"etcd": "etcd-server", "etcdctl": "etcd-client"}
"""What the tests run, with the packages of Debian."""
START_S = 20.0
PATIENT = EtcdLimits(connect_s=10, attempt_s=10, ask_s=20)
"""For tests in which no member fails: a busy machine must not look like one."""
QUOTA_BYTES = 2 * 1024**3

_ports = itertools.count(12379)


def require_etcd() -> None:
    """Skip the test if no etcd is installed; fail it where one must be. Call it before anything else."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    why = f"etcd was not found (apt-get install {' '.join(missing)})"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{why}, and {REQUIRE}=1", pytrace=False)
    pytest.skip(why)


def own_address() -> str:
    """A loopback address of this process alone: pids have 22 bits, like the addresses from 127.192.0.0 on."""
    pid = os.getpid()
    return f"127.{192 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"


@dataclass
class Member:
    """One member; ``process`` is None while it is not started."""

    name: str
    directory: Path
    client_url: str
    peer_url: str
    process: ProcessIdentity | None = None
    certificate: MemberFiles | None = None
    joins: str | None = None
    """The members that it finds when it starts for the first time, as etcd's ``initial-cluster``; None: it founds the
    cluster together with the others."""

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def freeze(self) -> None:
        """Stop it without ending it."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue it."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self._send(signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        """Wait for the end of a process that was killed."""
        assert self.process is not None
        os.waitpid(self.process.pid, 0)
        self.process = None

    def _send(self, number: int) -> None:
        assert self.process is not None, f"{self.name} is not started"
        assert send(self.process, number), f"{self.name} has ended: {self.log.read_text()[-2000:]}"


@dataclass
class EtcdCluster:
    """Members that form one etcd. Use it as an asynchronous context: it starts them and ends them."""

    directory: Path
    count: int = 1
    tls: bool = False
    quota_bytes: int = QUOTA_BYTES
    member_usages: Sequence[ObjectIdentifier] | None = None
    """None: those of the store's certificates."""
    members: list[Member] = field(default_factory=list)
    authority: Members | None = None
    client: MemberFiles | None = None

    def __post_init__(self) -> None:
        scheme = "https" if self.tls else "http"
        for n in range(self.count):
            url = f"{scheme}://{own_address()}"
            self.members.append(Member(f"m{n}", self.directory / f"m{n}", f"{url}:{next(_ports)}", f"{url}:{next(_ports)}"))
        if self.tls:
            self.authority = members()
            self.client = self.certificate("client", self.count + 1)
            for number, member in enumerate(self.members, 1):
                # A member connects to its peers from the second address, and they compare it with the certificate.
                member.certificate = self._shown_by(member, number)

    def _shown_by(self, member: Member, number: int) -> MemberFiles:
        return self.certificate(member.name, number, own_address(), "127.0.0.1", usages=self.member_usages)

    def newcomer(self, name: str) -> Member:
        """A further member: not started, and not added to the etcd. ``stop`` and the context's end know it."""
        scheme = "https" if self.tls else "http"
        url = f"{scheme}://{own_address()}"
        member = Member(name, self.directory / name, f"{url}:{next(_ports)}", f"{url}:{next(_ports)}")
        member.joins = ",".join(f"{m.name}={m.peer_url}" for m in [*self.members, member])
        if self.tls:
            member.certificate = self._shown_by(member, len(self.members) + 2)
        self.members.append(member)
        return member

    def certificate(
        self,
        name: str,
        node: int,
        *addresses: str,
        usages: Sequence[ObjectIdentifier] | None = None,
        at: datetime | None = None,
    ) -> MemberFiles:
        """A certificate of the store's role; see ``Members.files``."""
        assert self.authority is not None
        directory = self.directory / "certificates"
        return self.authority.files(directory, node, *addresses, role=CertificateRole.STORE, at=at, usages=usages, name=name)

    async def __aenter__(self) -> "EtcdCluster":
        require_etcd()
        try:
            await self.start(*self.members)
        except BaseException:
            await self.stop(*self.members)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(*self.members)

    def settings(self, first: int = 0, *, limits: EtcdLimits = PATIENT) -> EtcdSettings:
        """Settings of a client that asks this member first."""
        urls = [member.client_url for member in self.members]
        endpoints = tuple(urls[first % self.count :] + urls[: first % self.count])
        if self.client is None:
            return EtcdSettings(endpoints, limits=limits)
        return EtcdSettings(endpoints, self.client.authority, self.client.certificate, self.client.key, limits)

    # -- start and end -----------------------------------------------------------------------------------------------

    async def start(self, *members: Member, waits: bool = True) -> None:
        """Start members, with the data that they have; wait until each knows a leader and takes requests."""
        for member in members:
            self.directory.mkdir(parents=True, exist_ok=True)
            member.process = await asyncio.to_thread(
                spawn_process,
                ["etcd", *self._flags(member)],
                directory=self.directory,
                output=member.log,
                environment=server_environment(),
            )
        for member in members if waits else ():
            await until_async(
                f"{member.name} is ready", partial(self._is_ready, member), seconds=START_S, state=self.logs, poll_s=0.02
            )

    def _is_ready(self, member: Member) -> bool:
        assert member.process is not None
        assert is_running(member.process), f"{member.name} has ended\n{self.logs()}"
        return bool(self.status(member).get("leader"))

    async def stop(self, *members: Member) -> None:
        """Kill members; their data is the test's. Without effect on those that are not started."""
        for member in members:
            if member.process is not None:
                await end(member.process, 0.0)
                member.process = None

    def _flags(self, member: Member) -> list[str]:
        peers = member.joins or ",".join(f"{m.name}={m.peer_url}" for m in self.members if m.joins is None)
        flags = {
            "name": member.name,
            "data-dir": str(member.directory),
            "listen-client-urls": member.client_url,
            "advertise-client-urls": member.client_url,
            "listen-peer-urls": member.peer_url,
            "initial-advertise-peer-urls": member.peer_url,
            "initial-cluster": peers,
            "initial-cluster-state": "new" if member.joins is None else "existing",
            "initial-cluster-token": "test",
            "heartbeat-interval": "100",
            "election-timeout": "1000",
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": "10000",
            "quota-backend-bytes": str(self.quota_bytes),
            "pre-vote": "true",
            "experimental-initial-corrupt-check": "true",
            "log-level": "warn",
            "logger": "zap",
        }
        if member.certificate is not None:
            shown = member.certificate
            for kind in ("", "peer-"):
                flags |= {f"{kind}cert-file": str(shown.certificate), f"{kind}key-file": str(shown.key)}
                flags |= {f"{kind}trusted-ca-file": str(shown.authority), f"{kind}client-cert-auth": "true"}
        return [f"--{name}={value}" for name, value in flags.items()]

    # -- what it says of itself --------------------------------------------------------------------------------------

    def status(self, member: Member) -> dict[str, object]:
        """A member's own status; empty: it does not answer."""
        try:
            context = trust(self.settings()) if self.tls else True
            answer = httpx.post(f"{member.client_url}/v3/maintenance/status", json={}, timeout=1.0, verify=context)
            return dict(answer.json()) if answer.status_code == 200 else {}
        except httpx.HTTPError:
            return {}

    def answers(self, member: Member) -> bool:
        """Whether its gateway answers at all, also with an error."""
        try:
            context = trust(self.settings()) if self.tls else True
            return httpx.get(f"{member.client_url}/version", timeout=1.0, verify=context).status_code > 0
        except httpx.HTTPError:
            return False

    def leader(self) -> Member:
        """The member that leads, as the first answering one sees it."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for member in self.members:
                status = self.status(member) if member.process is not None else {}
                header = status.get("header")
                if isinstance(header, dict) and status.get("leader") == header.get("member_id"):
                    return member
            time.sleep(0.05)
        raise AssertionError(f"no member leads\n{self.logs()}")

    def restore(self, member: Member, snapshot: Path) -> None:
        """Make a member's data from a snapshot, as a new etcd of this member alone. It must not be started."""
        arguments = [str(snapshot), f"--name={member.name}", f"--data-dir={member.directory}"]
        arguments += [f"--initial-cluster={member.name}={member.peer_url}", "--initial-cluster-token=restored"]
        self.control("snapshot", "restore", *arguments, f"--initial-advertise-peer-urls={member.peer_url}")

    def control(self, *arguments: str) -> str:
        """Run ``etcdctl`` against the first member; returns what it says. Raises CalledProcessError."""
        command = ["etcdctl", f"--endpoints={self.members[0].client_url}"]
        if self.client is not None:
            command += [f"--cacert={self.client.authority}", f"--cert={self.client.certificate}", f"--key={self.client.key}"]
        environment = {**server_environment(), "ETCDCTL_API": "3"}
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    def logs(self) -> str:
        """The ends of the members' logs."""
        return "\n".join(f"{m.name}: {m.log.read_text()[-1500:]}" for m in self.members if m.log.exists())
