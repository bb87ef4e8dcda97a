"""The version of the records, and what may be written at which version. Pure.

Daemons of two adjacent versions work together while a cluster is upgraded one node at a time. An older daemon ignores what
it does not know, and loses it when it writes the record again. So the cluster has a version, the least of all its daemons':
what is newer than that is not written. The leader raises it when all daemons are new (``reconcile/version.py``). From then
on an older daemon refuses to start, and one that runs ends (``store/admission.py``).

A change of the records that an older daemon must not meet raises CLUSTER_VERSION by one, and is listed here: a feature in
SINCE, a field of a record that other daemons write again in FIELDS_SINCE. Observations need no entry, because only their own
writer replaces them; nor does a field that no decision misses when it is lost.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from typing import Any

FIRST_CLUSTER_VERSION = 1
"""Of every record that does not say more."""
CLUSTER_VERSION = 2
"""The highest version with which this Shardwright can work."""


class Feature(StrEnum):
    """What the records may contain from some version on."""

    SEALED_VALUES = "sealed_values"
    """Records with secrets are sealed under the cluster key."""


SINCE: Mapping[Feature, int] = {Feature.SEALED_VALUES: 2}
"""Total: a test checks every member."""

FIELDS_SINCE: Mapping[tuple[str, str], int] = {
    ("Cluster", "kind"): 2,
    ("Node", "server_address"): 2,
    ("Node", "store_role"): 2,
    ("Node", "machine_id"): 2,
    ("Node", "key_hash"): 2,
    ("Node", "is_signer"): 2,
    ("Node", "declared_off"): 2,
    ("Node", "replaces"): 2,
    ("Node", "awaits_survey"): 2,
    ("SlotGroup", "is_restored"): 2,
    ("SlotGroup", "lease"): 2,
    ("Database", "uses_tls"): 2,
}
"""The version since which a field of a record, by the names of both, may differ from its default."""


def release_of(version: str) -> tuple[int, ...]:
    """A program's version, to be compared: ``0.2.1+local`` is (0, 2, 1). Empty: (), older than any."""
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def may_write(feature: Feature, cluster_version: int) -> bool:
    """Whether every daemon of a cluster with this version can read it."""
    return cluster_version >= SINCE[feature]


def fields_too_new(
    record: object, cluster_version: int, *, since: Mapping[tuple[str, str], int] = FIELDS_SINCE
) -> tuple[str, ...]:
    """The fields of a record (a dataclass) that must keep their defaults at this version and do not, in the order of their
    definition."""
    name = type(record).__name__
    return tuple(
        f.name
        for f in fields(record)  # type: ignore[arg-type]
        if since.get((name, f.name), FIRST_CLUSTER_VERSION) > cluster_version and getattr(record, f.name) != _default(f)
    )


def _default(field: Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default
