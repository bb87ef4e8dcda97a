"""``shardwright join``: makes this machine a node of a cluster. It recognizes the authority, asks to be admitted, writes the
files, and then the node is started (``services.py``).

The node's key is kept from the first attempt on. The cluster recognizes by it a machine whose earlier request was committed
and whose answer was lost, and gives the same answer again. ``node.toml`` is written last, so that an interrupted join may be
repeated.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from shardwright import __version__
from shardwright.api.schemas.v1.bootstrap import body_of_request, response_of
from shardwright.errors import Permanent, Refusal, Rejected, Transient
from shardwright.machine.files import write_private
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.node import files, preflight
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import client_url, member_name, peer_url, render_etcd
from shardwright.node.founding import FIRST, Place, members_store, settings_of
from shardwright.node.init import STORE_FILES, Founded, existing_node
from shardwright.node.preflight import Machine, PlaceOptions
from shardwright.node.probe import answering
from shardwright.node.progress import saying
from shardwright.node.recorded import is_recorded
from shardwright.node.services import SAY_EVERY_S, Say
from shardwright.node.settings import SETTINGS_FILE, NodeSettings, StorePlace
from shardwright.node.settings_file import write_settings
from shardwright.store.seal import ClusterKey, text_of
from shardwright.trust.authority import Authority, read_authority
from shardwright.trust.certificates import make_request
from shardwright.trust.contexts import read_credentials, trusting_context
from shardwright.trust.files import TrustFiles, own_key, write_credentials
from shardwright.trust.join import JoinRequest, JoinResponse, ServerVersion
from shardwright.trust.keys import key_text
from shardwright.trust.newcomer import fetch_authority

ANSWER_TIMEOUT_S: Final = 30.0
"""The cluster connects back to several ports and commits; each may take seconds."""
STORE_TIMEOUT_S: Final = 60.0
"""For another new member of the store to catch up, or for an election: a store of two members elects when one is late."""
_PASSES: Final = {
    str(Code.STORE_LEARNER_PENDING): "another new member of the store is catching up",
    str(Code.STORE_UNAVAILABLE): "the store of the cluster does not answer",
}
"""Refusals that pass by themselves. The same request again is harmless: it gets the same answer if it was committed."""
_PAUSE_S: Final = 2.0
_PROBE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """The options of ``join``."""

    host: str
    """Of any node's API."""
    port: int
    token: str = field(repr=False)
    ca_hash: str
    place: PlaceOptions = field(default_factory=PlaceOptions)
    replaces: NodeUid | None = None
    """The node whose place this machine takes; None: it becomes a further node."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of ``join``."""

    settings: NodeSettings
    authority: Authority
    was_member: bool
    """This machine was a node of that cluster before; nothing was changed."""
    has_member: bool
    """Whether the node runs a member of the store."""
    is_sure: bool = True
    """False: the store did not answer, so the cluster may have removed the node."""


def join(options: JoinOptions, machine: Machine, *, say: Say, now: Callable[[], datetime]) -> Joined:
    """Make this machine a node, or find that it is one. Raises Rejected, Permanent, Transient (repeat it later), OSError. An
    interrupted join is repeated with the same line."""
    directories = options.place.directories
    if (existing := _existing(options)) is not None:
        return existing
    place = preflight.place_of(options.place, machine.addresses)
    preflight.check_place(place)
    memory = preflight.memory_of(options.place, machine.memory_bytes)
    preflight.check_directories(directories)
    preflight.check_ports(place, with_store=False)
    machine = without_member(place, machine, say)
    # Before the first change here: a wrong address or hash must leave nothing behind.
    say(f"looking for the cluster at {options.host}:{options.port}")
    target = (resolved(options.host), options.port)
    with saying(f"waiting for the handshake with {target[0]}:{target[1]}", say):
        authority = fetch_authority(*target, options.ca_hash)
    owner = files.service_owner()
    files.make_directories(directories, owner)
    with files.locked(directories):
        if (existing := _existing(options)) is not None:
            return existing
        trust = TrustFiles(directories.configuration)
        probe = secrets.token_hex(_PROBE_BYTES)
        own = make_request(own_key(trust))

        def request() -> JoinRequest:
            return _request(options, place, machine, memory, own, probe, now())

        say(f"asking it to admit this machine at {place.addresses[0]}")
        ports = list(preflight.ports_of(place, with_store=machine.has_store_program))
        with answering(str(place.addresses[0]), ports, probe):
            response = ask(target, authority, request, say=say)
        return _write(response, place, authority, trust, owner)


def without_member(place: Place, machine: Machine, say: Say) -> Machine:
    """The machine as the cluster is told of it: one whose ports of the store are taken runs no member."""
    if not machine.has_store_program or not (why := preflight.why_no_member(place)):
        return machine
    say(f"this machine will run no member of the cluster's store: {why}")
    return replace(machine, store_version="")


def _existing(options: JoinOptions) -> Joined | None:
    found = existing_node(options.place.directories.configuration)
    if found is None:
        return None
    if found.authority.key_hash != options.ca_hash:
        code = Code.NODE_EXISTS
        text = f"this machine is node {found.settings.node_uid} of another cluster ({found.authority.key_hash})"
        raise Rejected(Refusal.CONFLICT, code, text, remedy=code.remedy)
    return judged(found, asyncio.run(is_recorded(found.settings)))


def judged(found: Founded, recorded: bool | None) -> Joined:
    """What a machine with a node's files is, by what the store says of the node; None: nothing. Raises Rejected if the node
    was removed: its files must go before the machine can join as another one."""
    if recorded is False:
        code = Code.NODE_NOT_RECORDED
        text = f"this machine has the files of node {found.settings.node_uid}, which was removed from the cluster"
        raise Rejected(Refusal.CONFLICT, code, text, remedy="shardwright node leave; then join again")
    is_sure = recorded is True
    return Joined(found.settings, found.authority, was_member=True, has_member=found.has_member, is_sure=is_sure)


def _request(
    options: JoinOptions, place: Place, machine: Machine, memory: int, own: bytes, probe: str, now: datetime
) -> JoinRequest:
    settings = settings_of(FIRST, place, StorePlace(()))
    return JoinRequest(
        token=options.token,
        request=own,
        machine_id=machine.machine_id,
        addresses=tuple(str(address) for address in place.addresses),
        memory_bytes=memory,
        rack=options.place.rack,
        version=__version__,
        servers=tuple(ServerVersion(server.kind, server.version) for server in machine.servers),
        at=now,
        external_address="" if place.external_address is None else str(place.external_address),
        server_address=str(settings.server_address) if settings.server_address != settings.address else "",
        has_store_program=machine.has_store_program,
        probe=probe,
        replaces=options.replaces,
    )


# -- asking ------------------------------------------------------------------------------------------------------------


def ask(target: tuple[str, int], authority: Authority, request: Callable[[], JoinRequest], *, say: Say) -> JoinResponse:
    """Ask to be admitted; at the node that holds the authority's key, if the first one does not; again while the store does
    not answer or takes no further member. Raises Rejected, Permanent, Transient."""
    began = said_at = time.monotonic()
    asked = {target}
    with httpx.Client(verify=trusting_context(authority), trust_env=False, timeout=ANSWER_TIMEOUT_S) as client:
        while True:
            with saying(
                f"waiting for the answer of {target[0]}:{target[1]}, which connects back to this machine first", say
            ):
                answer = _post(client, target, body_of_request(request()))
            if answer.is_success:
                return _decoded(answer, target)
            body = _body(answer)
            code = str(body.get("error_code", ""))
            elsewhere = (str(body.get("addr", "")), _port(body.get("port")))
            if code == Code.AUTHORITY_KEY_ABSENT and all(elsewhere) and elsewhere not in asked:
                target = elsewhere
                asked.add(target)
                say(f"{body.get('description')} Asking there.")
                continue
            if (why := _PASSES.get(code)) and time.monotonic() - began < STORE_TIMEOUT_S:
                if time.monotonic() - said_at >= SAY_EVERY_S:
                    said_at = time.monotonic()
                    say(f"waiting: {body.get('description') or why}")
                time.sleep(_PAUSE_S)
                continue
            raise refusal_of(answer.status_code, body, target)


def resolved(host: str) -> str:
    """The IP address of a host: certificates of nodes name no hosts. Raises Transient ``api_unreachable``."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as e:
        raise Transient(Code.API_UNREACHABLE, f"the name {host} cannot be resolved: {e.strerror}") from e


def refusal_of(status: int, body: dict[str, Any], target: tuple[str, int]) -> Exception:
    """The error for an answer that is not a success."""
    where = f"{target[0]}:{target[1]}"
    text = str(body.get("description") or f"{where} answered {status}").strip().rstrip(".")
    code = str(body.get("error_code") or "")
    known = next((one for one in Code if one == code), None)
    remedy = str(body.get("remedy") or (known.remedy if known is not None else ""))
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Transient(known or Code.API_UNREACHABLE, text)
    if status == httpx.codes.NOT_FOUND:
        return Permanent(Code.API_UNREACHABLE, f"{where} is not the API of a cluster of machines")
    refusal = Refusal.CONFLICT if status == httpx.codes.CONFLICT else Refusal.NOT_ACCEPTABLE
    return Rejected(refusal, code or "refused", text, remedy=remedy)


def _post(client: httpx.Client, target: tuple[str, int], body: dict[str, object]) -> httpx.Response:
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    url = f"https://{host}:{target[1]}/v1/bootstrap/join"
    try:
        return client.post(url, json=body)
    except httpx.TransportError as e:
        text = str(e) or type(e).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.rpartition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            clock = "; is this machine's clock right?" if "expired" in why or "not yet valid" in why else ""
            said = f"the certificate of the node at {target[0]}:{target[1]} is not accepted: {why}{clock}"
            raise Permanent(Code.NODE_CERTIFICATE_REFUSED, said) from e
        raise Transient(
            Code.API_UNREACHABLE, f"the API at {target[0]}:{target[1]} did not answer the request to join: {text}"
        ) from e


def _decoded(answer: httpx.Response, target: tuple[str, int]) -> JoinResponse:
    try:
        return response_of(answer.json())
    except ValueError as e:
        raise Permanent(Code.API_UNREACHABLE, f"{target[0]}:{target[1]} did not give the answer to a join") from e


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _port(given: object) -> int:
    return given if isinstance(given, int) and 0 < given < 65536 else 0


# -- files -------------------------------------------------------------------------------------------------------------


def _write(
    response: JoinResponse, place: Place, authority: Authority, trust: TrustFiles, owner: files.FileOwner | None
) -> Joined:
    configuration = place.directories.configuration
    key = key_text(own_key(trust))
    if read_authority(response.authority).key_hash != authority.key_hash:
        raise Permanent(Code.AUTHORITY_MISMATCH, "the answer to the join names another authority than the one expected")
    for chain in response.certificates.values():
        read_credentials(chain, key, response.authority)
    has_member = bool(response.initial_cluster)
    settings = _settings(response, place)
    write_credentials(trust, response.authority, response.certificates)
    sealing = text_of([ClusterKey.of(found.key) for found in response.sealing_keys])
    write_private(place.directories.cluster_key, sealing.encode())
    if (found := response.store_files) is not None:
        for name, content in zip(STORE_FILES, (found.authority, found.certificate, found.key), strict=True):
            write_private(configuration / name, content)
    _write_member(settings, trust, response, configuration / ETCD_NAME)
    files.hand_over(files.all_in(configuration), owner)
    write_settings(configuration / SETTINGS_FILE.name, settings, group=None if owner is None else owner.group)
    return Joined(settings, authority, was_member=False, has_member=has_member)


def _settings(response: JoinResponse, place: Place) -> NodeSettings:
    configuration = place.directories.configuration
    if response.store_files is not None:
        store = StorePlace(response.store_endpoints, *(configuration / name for name in STORE_FILES))
        return settings_of(response.uid, place, store)
    own = client_url(place.addresses[0], place.ports.store_clients)
    # The own member last: it serves only when it has caught up.
    others = [endpoint for endpoint in response.store_endpoints if endpoint != own]
    return settings_of(response.uid, place, members_store(place, (*others, *((own,) if response.initial_cluster else ()))))


def _write_member(settings: NodeSettings, trust: TrustFiles, response: JoinResponse, path: Path) -> None:
    if not response.initial_cluster:
        path.unlink(missing_ok=True)
        return
    members = {**response.initial_cluster, member_name(settings.node_uid): peer_url(settings)}
    write_private(path, render_etcd(settings, trust, initial_cluster=members, is_new=False).encode())
