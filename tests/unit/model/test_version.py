"""What may be written at which cluster version."""

from dataclasses import dataclass, field

import pytest

from shardwright.model.version import (
    CLUSTER_VERSION,
    FIELDS_SINCE,
    FIRST_CLUSTER_VERSION,
    SINCE,
    Feature,
    fields_too_new,
    may_write,
)


@dataclass(frozen=True, slots=True)
class Thing:
    uid: int
    size: int = 0
    names: dict[str, int] = field(default_factory=dict)


FROM_3 = {("Thing", "size"): 3, ("Thing", "names"): 4}


def test_every_feature_has_a_version_that_this_software_knows() -> None:
    assert set(SINCE) == set(Feature)
    for since in (*SINCE.values(), *FIELDS_SINCE.values()):
        assert FIRST_CLUSTER_VERSION < since <= CLUSTER_VERSION


@pytest.mark.parametrize("feature", Feature)
def test_a_feature_waits_for_its_version(feature: Feature) -> None:
    assert not may_write(feature, SINCE[feature] - 1)
    assert may_write(feature, SINCE[feature])
    assert may_write(feature, SINCE[feature] + 1)


@pytest.mark.parametrize(
    ("thing", "version", "too_new"),
    [
        (Thing(7), 1, ()),
        (Thing(7, size=1), 2, ("size",)),
        (Thing(7, size=1), 3, ()),
        (Thing(7, size=1, names={"a": 1}), 3, ("names",)),
        (Thing(7, size=1, names={"a": 1}), 1, ("size", "names")),
        (Thing(7, size=1, names={"a": 1}), 4, ()),
    ],
)
def test_a_newer_field_keeps_its_default(thing: Thing, version: int, too_new: tuple[str, ...]) -> None:
    assert fields_too_new(thing, version, since=FROM_3) == too_new
