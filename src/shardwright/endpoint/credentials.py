"""What this machine shows to the others, read from files. A renewed certificate is used for the next connection; open
connections stay.

Used by processes that get the paths of these files. Must not write them, and must not judge certificates: ``trust`` does.
"""

import ssl
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from shardwright.endpoint.tls import OwnCertificateUnusable
from shardwright.errors import Permanent
from shardwright.trust.contexts import Credentials, LiveContext, client_context, server_context
from shardwright.trust.files import MemberFiles, load_credentials

_log = structlog.get_logger(__name__)
_Mark = tuple[tuple[int, int, int] | None, ...]


class OwnCertificate:
    """The contexts made of the files as they are now. ``load`` reads them."""

    def __init__(self, files: MemberFiles, load: Callable[[MemberFiles], Credentials] = load_credentials) -> None:
        self._files = files
        self._load = load
        self._mark: _Mark | None = None
        """Of the files that were read last, also if they could not be used."""
        self._contexts: tuple[LiveContext, LiveContext] | None = None
        """For accepting and for connecting."""

    def server(self) -> ssl.SSLContext:
        """For accepting. Raises OwnCertificateUnusable if there has been no usable set of files yet."""
        return self._current()[0].context

    def client(self) -> ssl.SSLContext:
        """For connecting. Raises OwnCertificateUnusable like ``server``."""
        return self._current()[1].context

    def _current(self) -> tuple[LiveContext, LiveContext]:
        # Taken first: what is written while the files are read makes another mark.
        mark = tuple(_mark_of(p) for p in (self._files.certificate, self._files.key, self._files.authority))
        if self._contexts is not None and mark == self._mark:
            return self._contexts
        self._mark = mark
        try:
            self._contexts = self._renewed()
        except Permanent as error:
            # Between the replacement of a certificate and that of its key, they do not belong together.
            if self._contexts is None:
                text = f"the certificate of this machine cannot be used: {error.text}"
                raise OwnCertificateUnusable(text, error.code) from error
            _log.warning("a renewed certificate cannot be used; the earlier one stays", code=error.code, reason=error.text)
        return self._contexts

    def _renewed(self) -> tuple[LiveContext, LiveContext]:
        # Read once for both contexts, so that they never show different certificates.
        self._found = self._load(self._files)
        if self._contexts is None:
            return LiveContext(server_context, lambda: self._found), LiveContext(client_context, lambda: self._found)
        for context in self._contexts:
            context.reload()
        return self._contexts


class RevokedSerials:
    """The serials in a file, one a line, as they are now. A file that does not exist, or cannot be read, changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._serials: frozenset[str] = frozenset()

    def __call__(self) -> Collection[str]:
        """See ``Revoked``."""
        mark = _mark_of(self._path)
        if mark is not None and mark != self._mark:
            try:
                self._serials = frozenset(self._path.read_text().split())
                self._mark = mark
            except (OSError, UnicodeDecodeError) as error:
                _log.warning("the revoked serials cannot be read; the earlier ones stay", reason=str(error))
        return self._serials


def _mark_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
