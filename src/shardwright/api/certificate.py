"""The certificate that the API shows, read from files. A renewed one is used for the next connection; open ones stay.

Must not write the files, and must not judge the certificate: the clients do.
"""

import asyncio
import ssl
from pathlib import Path

import structlog

from shardwright.errors import Permanent
from shardwright.model.codes import Code

FOLLOW_EVERY_S = 5.0
"""Interval of the look at the files: two calls to the file system."""
_Mark = tuple[tuple[int, int, int] | None, ...]

_log = structlog.get_logger(__name__)


class ApiCertificate:
    """The context of a listener. ``certificate``: the server's, then the authority's, PEM. Reads nothing before ``load``."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._mark: _Mark = ()
        """Of the files that were read last, also if they could not be used."""
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """The one context: it shows the latest certificate that could be used. ``load`` comes first."""
        assert self._context is not None, "load comes first"
        return self._context

    def load(self) -> bool:
        """Read the files if they have changed. False: they have not. Raises Permanent ``credentials_unusable`` if they
        cannot be used; the context then remains as it was."""
        # Taken first: what is written while the files are read makes another mark.
        mark = tuple(_mark_of(path) for path in self._files)
        if mark == self._mark:
            return False
        self._mark = mark
        # A context whose certificate and key do not match is left without a key, so they are tried elsewhere first.
        fresh = self._read(_new())
        if self._context is None:
            self._context = fresh
        else:
            self._read(self._context)
        return True

    async def follow(self, every_s: float = FOLLOW_EVERY_S) -> None:
        """Eternal task: show what the files contain."""
        while True:
            await asyncio.sleep(every_s)
            try:
                if await asyncio.to_thread(self.load):
                    _log.info("the API shows a new certificate", path=str(self._files[0]))
            except Permanent as e:
                # Between the replacement of a certificate and that of its key, they do not belong together.
                _log.warning(
                    "a new certificate of the API cannot be used; the earlier one stays", code=e.code, reason=e.text
                )

    def _read(self, context: ssl.SSLContext) -> ssl.SSLContext:
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as e:
            reason = e.reason if isinstance(e, ssl.SSLError) else e.strerror
            raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{certificate} with {key} cannot be used: {reason}") from e
        return context


def _new() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _mark_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
