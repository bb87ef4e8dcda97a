"""Keeps the certificates of a node's servers current: a server reads its files only when it starts and when it is told to.

Called by the agent's loop every few seconds. Must not write the files: the renewal does.
"""

import asyncio
from collections.abc import Collection
from pathlib import Path

import structlog

from shardwright.model.ids import ShardUid
from shardwright.server.certificates import read_again
from shardwright.server.connection import Context
from shardwright.server.network import TlsFiles
from shardwright.server.protocol import ServerTarget

_log = structlog.get_logger(__name__)


class ServerCertificates:
    """See the module's docstring. ``files``: those of the servers; ``context``: for connections to them."""

    def __init__(self, files: TlsFiles, context: Context) -> None:
        self.files = files
        self.context = context
        self._shown: dict[tuple[ShardUid, int], tuple[int, int]] = {}
        """The file of the certificate that each incarnation was last told to read. An earlier daemon may have told it
        already; once more does no harm."""

    async def renew(self, targets: Collection[ServerTarget]) -> None:
        """Tell each server that has not read the present certificate to do so. A server that does not answer is told at the
        next call."""
        mark = await asyncio.to_thread(_mark_of, self.files.certificate)
        if mark is None:
            return
        wanted = {(target.shard_uid, target.incarnation): target for target in targets if target.uses_tls}
        self._shown = {key: shown for key, shown in self._shown.items() if key in wanted}
        for key, target in wanted.items():
            if self._shown.get(key) != mark and await read_again(target, self.context, self.files):
                self._shown[key] = mark
                _log.info("a server shows the present certificate", shard=target.shard_uid)


def _mark_of(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
