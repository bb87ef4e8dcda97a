"""The files of trust on a machine: a node's credentials, and the authority's key where it is kept.

    ca.pem  node.pem  node-key.pem         every node: the authority, its certificate with the authority's, its key
    ca-key.pem                             only a node that signs

Waits for the disk: in an event loop, call it in a thread. Must not log a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from shardwright.errors import Permanent, Rejected
from shardwright.machine.files import make_private_directory, write_private
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import Signer, read_signer
from shardwright.trust.contexts import Credentials, read_credentials
from shardwright.trust.keys import key_text, new_key, read_key


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """Paths of what a member shows and whom it trusts, in PEM."""

    certificate: Path
    """May be followed by the authority's."""
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """Where they are."""

    directory: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """The authority's key; does not exist on most nodes."""
        return self.directory / "ca-key.pem"

    @property
    def key(self) -> Path:
        """The node's key, the same for all roles and for every renewal: a new certificate always fits it."""
        return self.directory / "node-key.pem"

    def certificate(self, role: CertificateRole) -> Path:
        """The node's certificate in this role, followed by the authority's."""
        return self.directory / f"{role}.pem"

    def member(self, role: CertificateRole) -> MemberFiles:
        """The files of the node in this role."""
        return MemberFiles(self.certificate(role), self.key, self.authority)


def own_key(files: TrustFiles) -> ec.EllipticCurvePrivateKey:
    """This node's key; made and written at the first call. Raises Permanent ``credentials_unusable``, OSError."""
    if not files.key.exists():
        make_private_directory(files.directory)
        key = new_key()
        write_private(files.key, key_text(key))
        return key
    try:
        return read_key(files.key.read_bytes())
    except ValueError as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{files.key}: {e}") from e


def write_signer(files: TrustFiles, signer: Signer) -> None:
    """Keep an authority and its key here: the key first, so that no authority without one is left behind. Raises OSError."""
    make_private_directory(files.directory)
    write_private(files.authority_key, key_text(signer.key))
    write_private(files.authority, signer.authority.text)


def load_signer(files: TrustFiles) -> Signer:
    """The authority with its key, to sign with.

    Raises Permanent ``authority_key_absent`` on a node that has no key, Rejected ``authority_unfit``, OSError."""
    try:
        key = files.authority_key.read_bytes()
    except FileNotFoundError as e:
        raise Permanent(
            Code.AUTHORITY_KEY_ABSENT, f"this node does not have the authority's key ({files.authority_key})"
        ) from e
    return read_signer(files.authority.read_bytes(), key)


def write_credentials(files: TrustFiles, authority: bytes, certificates: Mapping[CertificateRole, bytes]) -> None:
    """Keep what a join or a renewal has brought, each file replaced as a whole. Raises OSError."""
    write_private(files.authority, authority)
    for role, chain in certificates.items():
        write_private(files.certificate(role), chain)


def load_credentials(files: MemberFiles) -> Credentials:
    """The credentials in these files. Raises Permanent ``credentials_unusable`` if one is missing or they do not fit
    together, ``peer_unknown`` if the certificate names no member."""
    try:
        chain, key, authority = (path.read_bytes() for path in (files.certificate, files.key, files.authority))
    except OSError as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{e.filename}: {e.strerror}") from e
    try:
        return read_credentials(chain, key, authority)
    except Rejected as e:
        raise Permanent(Code.CREDENTIALS_UNUSABLE, f"{files.authority}: {e.text}") from e
