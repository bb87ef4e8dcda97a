"""The join of a newcomer and its token on the wire, both ways: ``join`` on the new machine uses it too. Pure."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import iso
from shardwright.api.schemas.v1.requests import LARGEST, Body, Natural
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, JoinToken
from shardwright.trust.certificates import REQUEST_BYTES_MAX
from shardwright.trust.join import (
    ADDRESSES_MAX,
    PROTOCOL,
    TEXT_MAX,
    JoinRequest,
    JoinResponse,
    SealingKey,
    ServerVersion,
    StoreFiles,
)
from shardwright.trust.tokens import join_line

_PROGRAMS_MAX: Final = 64
_KINDS: Final = frozenset(str(kind) for kind in ServerKind)
_Short = Annotated[str, Field(max_length=TEXT_MAX)]


class ServerBody(Body):
    """A server program of the newcomer."""

    server: _Short
    version: _Short


class JoinBody(Body):
    """Extension: what a newcomer sends. A token, or the credentials of an administrator, admits it."""

    request: Annotated[str, Field(max_length=REQUEST_BYTES_MAX)] = Field(description="a certificate request, PEM")
    machine_id: _Short
    addresses: Annotated[list[_Short], Field(max_length=ADDRESSES_MAX)]
    memory: Natural
    version: _Short
    at: AwareDatetime = Field(strict=False, description="the newcomer's time, ISO 8601 with its zone")
    token: _Short = Field(default="", repr=False)
    rack_id: _Short = ""
    servers: Annotated[list[ServerBody], Field(max_length=_PROGRAMS_MAX)] = Field(default_factory=list)
    external_addr: _Short = ""
    server_addr: _Short = ""
    can_run_store: bool = False
    probe: _Short = Field(default="", description="what the newcomer says to everybody who connects to its ports meanwhile")
    protocol: Annotated[int, Field(ge=1, le=LARGEST)] = PROTOCOL
    replaces: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None, description="the node whose place it takes: switched off and declared so, or without copies"
    )


class SealingKeyAnswer(TypedDict):
    """A key under which secrets are sealed, in base64."""

    key_id: str
    key: str


class StoreFilesAnswer(TypedDict):
    """What opens an etcd that the operator runs, PEM."""

    authority: str
    certificate: str
    key: str


class JoinAnswer(TypedDict):
    """What a newcomer is given. ``certificates`` are by role; ``initial_cluster`` is empty if it runs no member of the
    store."""

    uid: int
    certificates: dict[str, str]
    authority: str
    store_endpoints: list[str]
    sealing_keys: list[SealingKeyAnswer]
    initial_cluster: dict[str, str]
    store_files: StoreFilesAnswer | None


class TokenAnswer(TypedDict):
    """A token, shown once, and the line to run on the new machine."""

    token: str
    expires_at: str
    ca_hash: str
    address: str
    join_line: str


_answers: TypeAdapter[JoinAnswer] = TypeAdapter(JoinAnswer)


def request_of(body: JoinBody) -> JoinRequest:
    """The request in a body. Server programs of a kind that is not known here are left out."""
    return JoinRequest(
        token=body.token,
        request=body.request.encode(errors="replace"),
        machine_id=body.machine_id,
        addresses=tuple(body.addresses),
        memory_bytes=body.memory,
        rack=body.rack_id,
        version=body.version,
        servers=tuple(ServerVersion(ServerKind(s.server), s.version) for s in body.servers if s.server in _KINDS),
        at=body.at,
        protocol=body.protocol,
        external_address=body.external_addr,
        server_address=body.server_addr,
        has_store_program=body.can_run_store,
        probe=body.probe,
        replaces=None if body.replaces is None else NodeUid(body.replaces),
    )


def body_of_request(request: JoinRequest) -> dict[str, object]:
    """The body of a request; ``request_of`` reads it."""
    return {
        "token": request.token,
        "request": request.request.decode(),
        "machine_id": request.machine_id,
        "addresses": list(request.addresses),
        "memory": request.memory_bytes,
        "rack_id": request.rack,
        "version": request.version,
        "servers": [{"server": str(server.kind), "version": server.version} for server in request.servers],
        "at": request.at.isoformat(),
        "protocol": request.protocol,
        "external_addr": request.external_address,
        "server_addr": request.server_address,
        "can_run_store": request.has_store_program,
        "probe": request.probe,
        **({} if request.replaces is None else {"replaces": request.replaces}),
    }


def join_json(response: JoinResponse) -> JoinAnswer:
    """The answer to an accepted newcomer."""
    files = response.store_files
    return {
        "uid": response.uid,
        "certificates": {str(role): chain.decode() for role, chain in response.certificates.items()},
        "authority": response.authority.decode(),
        "store_endpoints": list(response.store_endpoints),
        "sealing_keys": [{"key_id": key.key_id, "key": base64.b64encode(key.key).decode()} for key in response.sealing_keys],
        "initial_cluster": dict(response.initial_cluster),
        "store_files": None
        if files is None
        else {"authority": files.authority.decode(), "certificate": files.certificate.decode(), "key": files.key.decode()},
    }


def response_of(answer: object) -> JoinResponse:
    """The response in a decoded answer. Raises ValueError, whose text quotes nothing of it."""
    try:
        found = _answers.validate_python(answer)
        return JoinResponse(
            uid=NodeUid(found["uid"]),
            certificates={CertificateRole(role): chain.encode() for role, chain in found["certificates"].items()},
            authority=found["authority"].encode(),
            store_endpoints=tuple(found["store_endpoints"]),
            sealing_keys=tuple(
                SealingKey(key["key_id"], base64.b64decode(key["key"], validate=True)) for key in found["sealing_keys"]
            ),
            initial_cluster=found["initial_cluster"],
            store_files=_files(found["store_files"]),
        )
    except (ValidationError, ValueError, binascii.Error):
        raise ValueError("it is not the answer to a join") from None


def _files(found: Mapping[str, Any] | None) -> StoreFiles | None:
    if found is None:
        return None
    return StoreFiles(found["authority"].encode(), found["certificate"].encode(), found["key"].encode())


def token_json(text: str, record: JoinToken, *, ca_hash: str, address: str, port: int) -> TokenAnswer:
    """A token that was just made. ``address``: of a node that can admit a newcomer."""
    return {
        "token": text,
        "expires_at": iso(record.expires_at),
        "ca_hash": ca_hash,
        "address": f"{f'[{address}]' if ':' in address else address}:{port}",
        "join_line": join_line(address, port, text, ca_hash),
    }
