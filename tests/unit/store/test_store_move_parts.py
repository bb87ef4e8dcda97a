"""The decisions of a copy: what must be written, and in which batches."""

from hypothesis import given
from hypothesis import strategies as st

from shardwright.store.bounds import check_transaction
from shardwright.store.move import batches, differences
from shardwright.store.protocol import (
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    DeleteKey,
    KeyValue,
    ModifiedAt,
    Operation,
    PutKey,
    Transaction,
)
from shardwright.store.seal import KEY_BYTES, ClusterKey, Sealing

THEIRS = Sealing([ClusterKey.of(bytes(KEY_BYTES))], bytes)
PLACE = "secrets/00000001"

operations = st.lists(
    st.tuples(st.text("ab/", min_size=1, max_size=30), st.one_of(st.none(), st.integers(0, 400_000))),
    max_size=300,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [DeleteKey(k) if size is None else PutKey(k, bytes(size)) for k, size in pairs])


@given(operations, st.integers(0, 100))
def test_batches_are_complete_in_order_and_within_the_limits(found: list[Operation], reserved: int) -> None:
    made = list(batches(found, reserved_bytes=reserved))
    assert [o for batch in made for o in batch] == found
    assert all(made)
    for batch in made:
        check_transaction(Transaction((ModifiedAt("k" * reserved, 1),), batch))


def test_batches_are_not_smaller_than_they_must_be() -> None:
    small: list[Operation] = [PutKey(str(n), b"") for n in range(2 * TRANSACTION_OPERATIONS_MAX)]
    assert [len(b) for b in batches(small, reserved_bytes=0)] == [TRANSACTION_OPERATIONS_MAX] * 2
    half: list[Operation] = [PutKey(str(n), bytes(TRANSACTION_BYTES_MAX // 2 - 1)) for n in range(4)]
    assert [len(b) for b in batches(half, reserved_bytes=0)] == [2, 2]
    assert [len(b) for b in batches(half, reserved_bytes=1)] == [1] * 4


def test_what_is_as_wanted_is_not_written_again() -> None:
    wanted = {PLACE: b"secret", "nodes/1": b"{}", "new": b"1"}
    held = {
        PLACE: KeyValue(PLACE, THEIRS.seal(PLACE, b"secret"), 1, 1),
        "nodes/1": KeyValue("nodes/1", b"{}", 1, 1),
        "surplus": KeyValue("surplus", b"", 1, 1),
    }
    assert differences(wanted, held, THEIRS) == [PutKey("new", b"1"), DeleteKey("surplus")]
    in_clear = {**held, PLACE: KeyValue(PLACE, b"secret", 1, 1)}
    assert [o.key for o in differences(wanted, in_clear, THEIRS)] == ["new", PLACE, "surplus"]
