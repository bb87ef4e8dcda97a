"""``python -m shardwright.endpoint.main --node N --control PATH --log FILE [--config FILE] [--replaces]``: the endpoint
process of one node.

Started by the node's agent in its own session, and outlives it. Its arguments and environment contain no secrets: the
specifications of its endpoints come over the control socket, and the configuration names files. Without one, it accepts only
callers of this machine. On SIGTERM, every client gets its last reply and a clean close. With ``--replaces``, it answers
beside the process of another version until it is told to take its place.
"""

import argparse
import asyncio
import gc
import resource
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from shardwright.endpoint.config import ControlConfig, read_config
from shardwright.endpoint.control import ControlSocket, SocketInUse
from shardwright.endpoint.credentials import OwnCertificate, RevokedSerials
from shardwright.endpoint.process import EndpointProcess
from shardwright.endpoint.protocol import REPLACES, replacement_path
from shardwright.endpoint.tls import TlsAddress, TlsListener, nothing_revoked
from shardwright.log import configure_logging
from shardwright.model.ids import NodeUid
from shardwright.tasks import spawn

_log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 after SIGTERM, 1 if the process could not start."""
    parser = argparse.ArgumentParser(prog="python -m shardwright.endpoint.main", description=__doc__.splitlines()[0])
    parser.add_argument("--node", type=int, required=True, help="uid of its node")
    parser.add_argument("--control", required=True, help="path of its control socket")
    parser.add_argument("--log", required=True, help="path of its log file")
    parser.add_argument("--config", type=Path, help="TOML file: how callers from other machines reach it")
    parser.add_argument(REPLACES, action="store_true", help="take the place of the one at the control socket, when told to")
    options = parser.parse_args(arguments)
    configure_logging(Path(options.log))
    try:
        remote = None if options.config is None else read_config(options.config)
    except ValueError as error:
        _log.error("the configuration cannot be used", path=str(options.config), reason=str(error))
        print(f"{options.config}: {error}", file=sys.stderr)
        return 1
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # two files per client
    gc.freeze()
    # Reference counts free almost all garbage. A collection stops the loop: keep each small, and full ones very rare.
    gc.set_threshold(10_000, 10, 1000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(NodeUid(options.node), options.control, remote, replaces=options.replaces))


async def _serve(node_uid: NodeUid, path: str, remote: ControlConfig | None, *, replaces: bool) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, ended.set)
    own = None if remote is None else OwnCertificate(remote.files)
    accepting: list[asyncio.Task[None]] = []

    def take_over() -> None:
        control.move(path)
        if remote is not None and own is not None and not accepting:
            accepting.append(spawn("control port", _listener(remote, own, process).run()))

    process = EndpointProcess(node_uid, context=None if own is None else own.client, take_over=take_over)
    control = ControlSocket(replacement_path(path) if replaces else path, process.serve_caller)
    try:
        control.open()
    except (SocketInUse, OSError) as error:
        _log.error("the control socket cannot be opened", path=path, reason=str(error))
        return 1
    if not replaces:
        take_over()
    _log.info("the endpoint process serves", node=node_uid, control=path)
    await ended.wait()
    await process.close()
    await control.close()
    for task in accepting:
        task.cancel()
    await asyncio.gather(*accepting, return_exceptions=True)
    _log.info("the endpoint process has ended", node=node_uid)
    return 0


def _listener(remote: ControlConfig, own: OwnCertificate, process: EndpointProcess) -> TlsListener:
    """Where leaders of other machines call."""
    revoked = nothing_revoked if remote.revoked is None else RevokedSerials(remote.revoked)
    at = TlsAddress(remote.address, remote.port, own.server, revoked)
    return TlsListener(at, process.serve_remote, name="control port")


if __name__ == "__main__":
    sys.exit(main())
