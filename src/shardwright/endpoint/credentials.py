"""The certificate, the key and the authority of this machine, read from files. A renewed file is used for the next
connection; open connections stay.

Used by processes that get the paths of these files. Must not write them.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from shardwright.endpoint.tls import Peer, PeerRefused
from shardwright.model.ids import NodeUid

_log = structlog.get_logger(__name__)
_Mark = tuple[tuple[int, int, int], ...]
_NODE_NAME = "node-"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. ``authority`` may contain several certificates, as during a change of the authority."""

    certificate: Path
    key: Path
    authority: Path


class Credentials:
    """The contexts made of the files as they are now."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._mark: _Mark | None = None
        """Of the files that were read last, also if they could not be used."""
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None

    def server(self) -> ssl.SSLContext:
        """For accepting. Raises OSError if there has been no usable set of files yet."""
        return self._current()[0]

    def client(self) -> ssl.SSLContext:
        """For connecting. Raises OSError like ``server``."""
        return self._current()[1]

    def _current(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        try:
            mark = tuple(_mark_of(p) for p in (self._files.certificate, self._files.key, self._files.authority))
            if mark != self._mark or self._contexts is None:
                self._mark = mark
                self._contexts = _contexts_of(self._files)
        except (OSError, ValueError) as error:
            # Between the replacement of a certificate and that of its key, they do not belong together.
            if self._contexts is None:
                raise OSError(f"the certificate of this machine cannot be used: {error}") from error
            _log.warning("a renewed certificate cannot be used; the earlier one stays", reason=str(error))
        return self._contexts


def subject_peer(shown: ssl.SSLObject) -> Peer:
    """Who a certificate is for, by its subject: the role is its organizational unit, the node its common name, ``node-3``.
    Raises PeerRefused if there is no certificate."""
    certificate = shown.getpeercert()
    if not certificate:
        raise PeerRefused("it has shown no certificate")
    # A subject is a tuple of sets, each of which holds one pair as a rule.
    subject = {pair[0]: pair[1] for part in certificate.get("subject", ()) for pair in part}
    name, number = str(subject.get("commonName", "")), ""
    if name.startswith(_NODE_NAME):
        number = name.removeprefix(_NODE_NAME)
    return Peer(str(subject.get("organizationalUnitName", "")), NodeUid(int(number)) if number.isdecimal() else None)


def _mark_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _contexts_of(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whose certificate it is counts, not under which name the machine was reached.
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.authority)
        # A key with a password would ask for it at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    return server, client
