"""The certificate that the API shows, read from files. A renewed one is used for the next connection; open ones stay.

Must not write the files, and must not judge the certificate: the clients do.
"""

import asyncio
import ssl
from pathlib import Path

import structlog

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.trust.contexts import load_texts

FOLLOW_EVERY_S = 5.0
"""Interval of the look at the files: two calls to the file system."""
_Texts = tuple[bytes, bytes]
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
        found = self._read()
        if found is not None:
            self._show(found)
        return found is not None

    async def follow(self, every_s: float = FOLLOW_EVERY_S) -> None:
        """Eternal task: show what the files contain."""
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await asyncio.to_thread(self._read)
            except Permanent as e:
                # Between the replacement of a certificate and that of its key, they do not belong together.
                _log.warning("a new certificate cannot be used; the earlier one stays", code=e.code, reason=e.text)
                continue
            if found is not None:
                # Not in the thread: a handshake in between would find a certificate without its key.
                self._show(found)
                _log.info("the API shows a new certificate", path=str(self._files[0]))

    def _read(self) -> _Texts | None:
        """What the files contain, if they have changed and can be used."""
        # Taken first: what is written while the files are read makes another mark.
        mark = tuple(_mark_of(path) for path in self._files)
        if mark == self._mark:
            return None
        self._mark = mark
        certificate, key = self._files
        try:
            found = certificate.read_bytes(), key.read_bytes()
        except OSError as e:
            raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{e.filename}: {e.strerror}") from e
        try:
            # A context whose certificate and key do not match is left without a key, so they are tried elsewhere first.
            load_texts(_new(), *found)
        except Permanent as e:
            raise Permanent(e.code, f"{certificate} with {key}: {e.text}") from e
        return found

    def _show(self, found: _Texts) -> None:
        self._context = _new() if self._context is None else self._context
        load_texts(self._context, *found)


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
