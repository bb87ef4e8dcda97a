"""Keeps the certificates of this node valid: looks at them, has due ones renewed by a node that can sign, and writes them.

``trust/renewal.py`` decides what is due. The private key never leaves the node and stays the same. Listeners and clients
look at the files themselves, so nothing is told to them; open connections stay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from shardwright.agent.signing import Signing, addresses_of
from shardwright.clock import Clock
from shardwright.errors import ClusterError, Permanent
from shardwright.model.backoff import Backoff
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.store.mirror import Mirror
from shardwright.trust.certificates import Member, make_request
from shardwright.trust.contexts import Credentials, read_credentials
from shardwright.trust.files import TrustFiles, load_credentials, own_key, write_credentials
from shardwright.trust.renewal import RenewalRequest, due, look_after

LOOK_EVERY_S = 3600.0
"""A certificate is due 30 days before it ends. One that ends with its authority may live for less than an hour: it is looked
at when it is due."""
AGAIN = Backoff((60.0, 120.0, 300.0, 900.0, LOOK_EVERY_S))
"""After a look that left a due certificate; earlier if it ends soon."""

Ask = Callable[[NodeUid, RenewalRequest], Awaitable[bytes]]
"""Ask another node to sign. Raises Permanent, Transient."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A node's files, and whom they name."""

    node_uid: NodeUid
    files: TrustFiles

    def held(self) -> dict[CertificateRole, Credentials]:
        """The certificates of this node, as far as its cluster's authority has issued them: those of the operator are left
        alone. Waits for the disk. Raises Permanent if the one of role ``node`` cannot be used."""
        found: dict[CertificateRole, Credentials] = {}
        for role in CertificateRole:
            member = self.files.member(role)
            if role is not CertificateRole.NODE and not member.certificate.exists():
                continue
            try:
                credentials = load_credentials(member)
            except Permanent:
                if role is CertificateRole.NODE:
                    raise
                continue
            if credentials.member == Member(role, self.node_uid):
                found[role] = credentials
        return found

    def request(self, credentials: Credentials, clock: Clock) -> RenewalRequest:
        """What is sent. Waits for the disk."""
        request = make_request(own_key(self.files))
        return RenewalRequest(credentials.member.role, request, clock.now(), credentials.chain)

    def keep(self, old: Credentials, chain: bytes) -> None:
        """Write a renewed certificate. Waits for the disk. Raises Permanent if it is not what was asked for, OSError."""
        new = read_credentials(chain, old.key, old.authority.text)
        if new.member != old.member:
            raise Permanent(Code.CREDENTIALS_UNUSABLE, "the renewed certificate names another node or role")
        write_credentials(self.files, old.authority.text, {old.member.role: new.chain})


class Renewals:
    """See the module's docstring. ``signing``: used first, because this node may hold the authority's key. ``ask``: asks one
    of the other nodes."""

    def __init__(
        self,
        own: CertificateFiles,
        *,
        mirror: Mirror,
        signing: Signing,
        ask: Ask,
        clock: Clock,
    ) -> None:
        self._own = own
        self._mirror = mirror
        self._signing = signing
        self._ask = ask
        self._clock = clock

    async def run(self) -> None:
        """Eternal task."""
        await self._mirror.ready()
        failures = 0
        while True:
            has_failed = not await self._look_safely()
            usual_s = AGAIN.delay_s(failures) if has_failed else LOOK_EVERY_S
            failures = failures + 1 if has_failed else 0
            await self._clock.sleep(await self._pause_s(usual_s, has_failed=has_failed))

    async def _pause_s(self, usual_s: float, *, has_failed: bool) -> float:
        try:
            held = await asyncio.to_thread(self._own.held)
        except (ClusterError, OSError):
            return usual_s  # The look has said what is wrong with them.
        certificates = [credentials.certificate for credentials in held.values()]
        usual = timedelta(seconds=usual_s)
        return look_after(certificates, self._clock.now(), usual=usual, has_failed=has_failed).total_seconds()

    async def _look_safely(self) -> bool:
        try:
            return not await self.look()
        except (ClusterError, OSError) as e:
            code, text = (e.code, e.text) if isinstance(e, ClusterError) else ("", str(e))
            _log.error("the certificates of this node cannot be renewed", code=code, reason=text)
            return False
        except Exception:
            _log.exception("the look at the certificates of this node failed")
            return False

    async def look(self) -> Mapping[CertificateRole, str]:
        """Renew what is due. Returns what stays due, each with the reason. Raises Permanent if this node's certificate or
        its clock makes every request useless, OSError if the files cannot be written."""
        held = await asyncio.to_thread(self._own.held)
        node = self._mirror.view().nodes.get(self._own.node_uid)
        addresses = () if node is None else addresses_of(node)
        authority = held[CertificateRole.NODE].authority
        certificates = {role: credentials.certificate for role, credentials in held.items()}
        left: dict[CertificateRole, str] = {}
        for role, cause in due(certificates, authority, addresses, self._clock.now()).items():
            try:
                chain = await self._signed(await asyncio.to_thread(self._own.request, held[role], self._clock))
                await asyncio.to_thread(self._own.keep, held[role], chain)
                _log.info("a certificate of this node was renewed", role=role, cause=cause)
            except ClusterError as e:
                left[role] = e.text
                until = f"{certificates[role].not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
                _log.warning("a certificate is due and was not renewed", role=role, cause=cause, until=until, reason=e.text)
        return left

    async def _signed(self, request: RenewalRequest) -> bytes:
        """From this node or the first other one that signs. Raises ClusterError with what each has said."""
        me = Member(CertificateRole.NODE, self._own.node_uid)
        said: list[ClusterError] = []
        try:
            return await self._signing.sign_for(request, me)
        except ClusterError as e:
            said.append(e)
        view = self._mirror.view()
        for uid in sorted(view.nodes, key=lambda uid: (uid not in view.daemons, uid)):
            if uid == self._own.node_uid:
                continue
            try:
                return await self._ask(uid, request)
            except ClusterError as e:
                said.append(e)
        # A node without the key says nothing about the request; one that has it does.
        telling = [e for e in said if e.code is not Code.AUTHORITY_KEY_ABSENT] or said[:1]
        raise Permanent(telling[0].code, "; ".join(e.text for e in telling))
