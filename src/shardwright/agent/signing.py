"""Renews certificates of members on a node that holds the authority's key.

Called by the agent for other nodes, and by the own node's renewal. Whether and what is granted is decided by
``trust/renewal.py``. A certificate is recorded before it is handed out, so that every one can be revoked.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from cryptography import x509

from shardwright.clock import Clock
from shardwright.errors import Permanent, Rejected
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.view import Put, Write
from shardwright.store.commit import Conflict, commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.trust.authority import Signer, certificate_text
from shardwright.trust.certificates import LIFETIME, Grant, Member, issued_record, member_of, sign_request
from shardwright.trust.files import TrustFiles, load_signer
from shardwright.trust.renewal import RenewalRequest, check_renewal, names_to_grant

ATTEMPTS = 5
"""To record the certificate while others write too."""


class Signing:
    """See the module's docstring. Reads the authority's key for each certificate: its operator may take it away.
    ``lifetime``: of a certificate."""

    def __init__(
        self,
        files: TrustFiles,
        store: Store,
        *,
        mirror: Mirror,
        clock: Clock,
        random_text: Callable[[], str],
        lifetime: timedelta = LIFETIME,
    ) -> None:
        self._files = files
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._random_text = random_text
        self._lifetime = lifetime

    async def sign(self, request: RenewalRequest, shown: bytes) -> bytes:
        """See ``answers.Sign``. Raises Permanent: ``authority_key_absent``, or why this certificate is not renewed;
        StoreError, Conflict."""
        return await self.sign_for(request, member_of(x509.load_der_x509_certificate(shown)))

    async def sign_for(self, request: RenewalRequest, peer: Member) -> bytes:
        """The renewed certificate of this member, followed by the authority's, PEM. Raises like ``sign``."""
        try:
            signer = await asyncio.to_thread(load_signer, self._files)
        except Rejected as e:
            raise Permanent(Code.AUTHORITY_UNFIT, e.text) from e
        except OSError as e:
            raise Permanent(Code.AUTHORITY_KEY_ABSENT, f"{e.filename}: {e.strerror}") from e
        for attempt in range(1, ATTEMPTS + 1):
            await self._mirror.fresh()
            certificate, writes = self._decide(signer, request, peer)
            try:
                await commit(self._store, self._mirror, writes, fence=None, random_text=self._random_text)
                break
            except Conflict:
                if attempt == ATTEMPTS:
                    raise
        return certificate_text(certificate, signer.authority.certificate)

    def _decide(self, signer: Signer, request: RenewalRequest, peer: Member) -> tuple[x509.Certificate, list[Write]]:
        view, now = self._mirror.view(), self._clock.now()
        if reasons := check_renewal(request, peer, frozenset(view.nodes), now):
            raise Permanent(reasons[0].code, "; ".join(reason.text for reason in reasons))
        names = names_to_grant(request, peer, signer.authority, addresses_of(view.nodes[peer.node_uid]))
        grant = Grant(request.role, peer.node_uid, names)
        serial = x509.random_serial_number()
        certificate = sign_request(signer, request.request, grant, serial=serial, now=now, lifetime=self._lifetime)
        record = issued_record(certificate)
        text = f"node {peer.node_uid} got a new certificate of role {request.role}, valid until {record.expires_at:%Y-%m-%d}"
        event = Event(now, EventKind.CERTIFICATE_RENEWED, Severity.INFO, text, node_uid=peer.node_uid)
        return certificate, [Put(record), Put(event)]


def addresses_of(node: Node) -> tuple[str, ...]:
    """The addresses at which a node is reached, by its record."""
    return tuple(dict.fromkeys((node.address, *node.external_addresses)))
