"""``shardwright init``: founds a cluster of machines on this one. All checks come first, then the files are written, then
the node is started (``services.py``).

The order of the files makes every interruption harmless: keys and certificates, the administrator's credentials, the first
records (``founding.json``), and ``node.toml`` last. Without ``node.toml`` nothing starts, and a repeated ``init`` writes all
of it again, with the same keys.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from shardwright.errors import Refusal, Rejected
from shardwright.key_file import ensure_sealing
from shardwright.machine.files import make_private_directory, write_private
from shardwright.model.account import is_email
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.node import files, preflight
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.etcd_config import member_name, peer_url, render_etcd
from shardwright.node.founding import FIRST, FirstNode, OwnStore, Place, ServerChoice, first_records, first_settings
from shardwright.node.founding_file import NAME as FOUNDING_NAME
from shardwright.node.founding_file import write_founding
from shardwright.node.preflight import Machine, PlaceOptions, invalid
from shardwright.node.settings import SETTINGS_FILE, NodeSettings
from shardwright.node.settings_file import load_settings, write_settings
from shardwright.passwords import first_password, hash_password
from shardwright.server.binaries import choose_server
from shardwright.store import keys, records
from shardwright.store.open import open_store
from shardwright.store.settings import EtcdSettings
from shardwright.trust.authority import (
    Authority,
    Signer,
    certificate_text,
    check_lifetime,
    make_authority,
    read_authority,
    read_signer,
)
from shardwright.trust.certificates import LIFETIME, Grant, certify, issued_record
from shardwright.trust.files import TrustFiles, load_signer, own_key, write_credentials, write_signer
from shardwright.trust.join import names_by_role
from shardwright.trust.keys import hash_of_key, new_key

CLUSTER_NAME: Final = "cluster.local"
NAME_CHARACTERS_MAX: Final = 64
STORE_FILES: Final = ("store-ca.pem", "store-client.pem", "store-client-key.pem")
"""Copies of what opens an operator's etcd: the authority, the client's certificate and its key."""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """The options of ``init``."""

    place: PlaceOptions = field(default_factory=PlaceOptions)
    name: str = CLUSTER_NAME
    server: str = "auto"
    """``auto``, ``valkey``, ``redis`` or the path of a server program."""
    admin_email: str = "admin@shardwright.local"
    authority: Path | None = None
    """The certificate of the operator's own authority; None: a new one is made."""
    authority_key: Path | None = None
    store: tuple[str, ...] = ()
    """Members of an etcd that the operator runs; empty: the store runs on the cluster's nodes."""
    store_files: tuple[Path | None, Path | None, Path | None] = (None, None, None)
    """Its authority, the client's certificate and its key."""


@dataclass(frozen=True, slots=True)
class CheckedInit:
    """Options that have passed all checks."""

    options: InitOptions
    place: Place
    machine: Machine
    memory_bytes: int
    server: ServerChoice
    signer: Signer | None
    """The operator's authority; None: a new one is made."""
    store: OwnStore | None
    """Where the files will be; None: the store runs on the cluster's nodes."""
    store_content: tuple[bytes, ...] = field(repr=False)
    password: str = field(repr=False)
    is_generated: bool = False


@dataclass(frozen=True, slots=True)
class Founded:
    """The result of ``init``."""

    settings: NodeSettings
    authority: Authority
    was_member: bool
    """This machine was a node before; nothing was changed."""
    has_member: bool
    """Whether the node runs a member of the store."""
    is_pending: bool
    """The daemon has not yet committed the first records."""
    username: str = ""
    password: str = field(default="", repr=False)
    """If it was generated, to be shown once; otherwise empty."""


def found(
    options: InitOptions, machine: Machine, environment: Mapping[str, str], *, credentials: Path, now: datetime
) -> Founded:
    """Write a node that founds a cluster, or find the one that is here. ``credentials``: the file that tells the command
    line how to reach the cluster as its administrator. Raises Rejected, Permanent, StoreUnavailable (nothing was changed),
    OSError (repeat it)."""
    directories = options.place.directories
    if (existing := existing_node(directories.configuration)) is not None:
        return existing
    checked = check(options, machine, environment)
    owner = files.service_owner()
    files.make_directories(directories, owner)
    with files.locked(directories):
        if (existing := existing_node(directories.configuration)) is not None:
            return existing  # Another init was faster.
        return _write(checked, owner, credentials, now)


def existing_node(configuration: Path) -> Founded | None:
    """The node whose files are here; None if there is none. Raises Rejected."""
    path = configuration / SETTINGS_FILE.name
    if not path.exists():
        return None
    owner = files.service_owner()
    settings = load_settings(path, user=None if owner is None else owner.user)
    return Founded(
        settings,
        read_authority(TrustFiles(configuration).authority.read_bytes()),
        was_member=True,
        has_member=(configuration / ETCD_NAME).exists(),
        is_pending=(configuration / FOUNDING_NAME).exists(),
    )


# -- checks ------------------------------------------------------------------------------------------------------------


def check(options: InitOptions, machine: Machine, environment: Mapping[str, str]) -> CheckedInit:
    """All checks, before the first change. Raises Rejected, Permanent (the operator's etcd cannot be the store),
    StoreUnavailable."""
    if not _is_host_name(options.name):
        raise invalid(f"--name {options.name!r} is not a host name of at most {NAME_CHARACTERS_MAX} characters")
    if not is_email(options.admin_email):
        raise invalid(f"--admin-email {options.admin_email!r} is not an e-mail address")
    password, is_generated = first_password(environment)
    place = preflight.place_of(options.place, machine.addresses)
    preflight.check_place(place)
    memory = preflight.memory_of(options.place, machine.memory_bytes)
    server, path = choose_server(options.server)
    signer = _operators_authority(options)
    content, store = _operators_store(options, place)
    if store is None:
        preflight.check_store_program(machine.store_version)
    preflight.check_directories(place.directories)
    preflight.check_ports(place, with_store=store is None)
    if store is not None:
        _check_is_free(EtcdSettings(options.store, *options.store_files))
    return CheckedInit(
        options,
        place,
        machine,
        memory,
        ServerChoice(server.kind, server.version, path),
        signer,
        store,
        content,
        password,
        is_generated,
    )


def _is_host_name(text: str) -> bool:
    labels = text.split(".")
    return len(text) <= NAME_CHARACTERS_MAX and all(
        label and label.isascii() and label.replace("-", "a").isalnum() and label.strip("-") == label for label in labels
    )


def _operators_authority(options: InitOptions) -> Signer | None:
    if options.authority is None and options.authority_key is None:
        return None
    if options.authority is None or options.authority_key is None:
        raise invalid("--ca and --ca-key belong together")
    return read_signer(_content("--ca", options.authority), _content("--ca-key", options.authority_key))


def _operators_store(options: InitOptions, place: Place) -> tuple[tuple[bytes, ...], OwnStore | None]:
    names = ("--store-ca", "--store-cert", "--store-key")
    given = [(name, path) for name, path in zip(names, options.store_files, strict=True) if path is not None]
    if not options.store:
        if given:
            raise invalid(f"{given[0][0]} is given without --store")
        return (), None
    try:
        EtcdSettings(options.store, *options.store_files).parsed()
    except ValueError as e:
        raise invalid(f"--store: {e}", remedy="--store https://HOST:2379 with --store-ca, --store-cert, --store-key") from e
    if len(given) != len(names):
        raise invalid("--store: etcd must be reached by https", remedy="give --store-ca, --store-cert and --store-key")
    directory = place.directories.configuration
    return (
        tuple(_content(name, path) for name, path in given),
        OwnStore(options.store, *(directory / name for name in STORE_FILES)),
    )


def _content(option: str, path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as e:
        raise invalid(f"{option} {path} cannot be read: {e.strerror}") from e


def _check_is_free(settings: EtcdSettings) -> None:
    """Whether a new cluster may use the operator's etcd. Raises Rejected, Permanent, StoreUnavailable."""

    async def look() -> str | None:
        store = await open_store(settings)  # Refuses an etcd with foreign keys or of an unsuitable version.
        try:
            item = await store.get(keys.CLUSTER)
            return None if item is None else getattr(records.decode(item.key, item.value), "name", "of an unknown kind")
        finally:
            await store.close()

    name = asyncio.run(look())
    if name is not None:
        code = Code.STORE_HOLDS_ANOTHER_CLUSTER
        text = f"the etcd at {', '.join(settings.endpoints)} contains the cluster {name}"
        raise Rejected(Refusal.CONFLICT, code, text, remedy="join that cluster, or name an empty etcd")


# -- files -------------------------------------------------------------------------------------------------------------


def _write(checked: CheckedInit, owner: files.FileOwner | None, credentials: Path, now: datetime) -> Founded:
    place, options = checked.place, checked.options
    configuration = place.directories.configuration
    trust = TrustFiles(configuration)
    key, signer = own_key(trust), _signer(trust, checked.signer, now)
    settings = first_settings(place, checked.store)
    certificates = _certify(signer, key, settings, now)
    chains = {role: certificate_text(leaf, signer.authority.certificate) for role, leaf in certificates.items()}
    write_credentials(trust, signer.authority.text, chains)
    sealing = ensure_sealing(place.directories.cluster_key)
    for name, content in zip(STORE_FILES, checked.store_content, strict=False):
        write_private(configuration / name, content)
    _write_member(settings, trust, is_wanted=checked.store is None)
    _write_access(checked, settings, signer.authority, credentials)
    first = first_records(
        settings,
        FirstNode(checked.memory_bytes, options.place.rack, checked.machine.machine_id, hash_of_key(key.public_key())),
        name=options.name,
        server=checked.server,
        admin=options.admin_email,
        password_hash=hash_password(checked.password),
        runs_member=checked.store is None,
        certificates=[issued_record(leaf) for leaf in certificates.values()],
        now=now,
    )
    write_founding(configuration / FOUNDING_NAME, first, sealing)
    files.hand_over(files.all_in(configuration), owner)
    write_settings(configuration / SETTINGS_FILE.name, settings, group=None if owner is None else owner.group)
    return Founded(
        settings,
        signer.authority,
        was_member=False,
        has_member=checked.store is None,
        is_pending=True,
        username=options.admin_email,
        password=checked.password if checked.is_generated else "",
    )


def _signer(trust: TrustFiles, given: Signer | None, now: datetime) -> Signer:
    """The operator's authority, the one of an interrupted ``init``, or a new one."""
    if given is None and trust.authority_key.exists() and trust.authority.exists():
        return load_signer(trust)
    signer = given or make_authority(new_key(), serial=x509.random_serial_number(), now=now)
    check_lifetime(signer.authority, now, LIFETIME)
    write_signer(trust, signer)
    return signer


def _certify(
    signer: Signer, key: ec.EllipticCurvePrivateKey, settings: NodeSettings, now: datetime
) -> Mapping[CertificateRole, x509.Certificate]:
    external = "" if settings.external_address is None else str(settings.external_address)
    named = names_by_role([str(address) for address in settings.addresses], external)
    return {
        role: certify(signer, key.public_key(), Grant(role, FIRST, names), serial=x509.random_serial_number(), now=now)
        for role, names in named.items()
    }


def _write_member(settings: NodeSettings, trust: TrustFiles, *, is_wanted: bool) -> None:
    path = settings.directories.configuration / ETCD_NAME
    if not is_wanted:
        path.unlink(missing_ok=True)
        return
    members = {member_name(settings.node_uid): peer_url(settings)}
    write_private(path, render_etcd(settings, trust, initial_cluster=members, is_new=True).encode())


def _write_access(checked: CheckedInit, settings: NodeSettings, authority: Authority, path: Path) -> None:
    """Before the cluster can exist: an interruption must not leave a cluster with an unknown password."""
    host = f"[{settings.address}]" if settings.address.version == 6 else str(settings.address)
    url = f"https://{host}:{settings.ports.api}"
    certificate = path.with_name("ca.pem")
    content = {
        "url": url,
        "urls": [url],
        "username": checked.options.admin_email,
        "password": checked.password,
        "certificate": os.fspath(certificate),
    }
    make_private_directory(path.parent)
    write_private(certificate, authority.text)
    write_private(path, (json.dumps(content, indent=2) + "\n").encode())
