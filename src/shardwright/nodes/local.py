"""Nodes of this machine: their endpoint processes by Unix socket, their processes in this machine's own table."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Self

from shardwright.clock import Clock
from shardwright.endpoint.client import EndpointClient
from shardwright.endpoint.protocol import CALL_TIMEOUT_S, EndpointControl, PassResult
from shardwright.errors import Transient
from shardwright.machine import processes
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity, Sighting
from shardwright.nodes.protocol import NOT_SEEN, NodeLink, ProcessLook

PathOf = Callable[[NodeUid], str | None]
"""The control socket of a node's endpoint process; None: no such node is known."""


def control_path(run_directory: Path, node_uid: NodeUid) -> Path:
    """Unix socket of a node's endpoint process."""
    return run_directory / f"endpoint-{node_uid}.sock"


class LocalNode:
    """See ``NodeLink``."""

    def __init__(self, endpoint_process: EndpointClient, path_of: PathOf) -> None:
        self._endpoint_process = endpoint_process
        self._path_of = path_of

    @property
    def endpoint_process(self) -> EndpointControl:
        """See ``NodeLink``."""
        return self._endpoint_process

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """See ``NodeLink``."""
        path = self._path_of(to_node)
        if not path:
            raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, f"no endpoint process of node {to_node} is known")
        return await self._endpoint_process.pass_along(endpoint, path)

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """See ``NodeLink``."""
        if not processes.is_of_this_machine(process):
            return NOT_SEEN
        if not processes.is_running(process):
            return ProcessLook(Sighting.ENDED)
        return ProcessLook(Sighting.RUNS, processes.cpu_seconds(process))

    async def end(self, process: ProcessIdentity) -> None:
        """See ``NodeLink``."""
        if not processes.is_of_this_machine(process):
            raise Transient(Code.PROCESS_OF_ANOTHER_MACHINE, f"process {process.pid} does not run on this machine")
        processes.send(process, signal.SIGKILL)


class LocalNodes:
    """See ``Nodes``."""

    def __init__(self, path_of: PathOf, *, clock: Clock | None = None, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._path_of = path_of
        self._clock = clock
        self._call_timeout_s = call_timeout_s

    @classmethod
    def of(cls, run_directory: Path, *, clock: Clock | None = None) -> Self:
        """The nodes of the local cluster whose sockets are in this directory."""
        return cls(lambda uid: str(control_path(run_directory, uid)), clock=clock)

    def link(self, node: NodeUid) -> NodeLink:
        """See ``Nodes``."""
        client = EndpointClient(node, self._path_of(node), clock=self._clock, call_timeout_s=self._call_timeout_s)
        return LocalNode(client, self._path_of)
