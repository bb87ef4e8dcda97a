"""Join tokens, for any randomness, time and text: only the right token at the right time, once."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Reason
from shardwright.model.trust import JoinToken
from shardwright.trust.tokens import RANDOM_BYTES, TOKEN_LIFETIME, check_token, is_forgettable, make_token, used

NOW = datetime(2026, 1, 2, tzinfo=UTC)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
TEXT = st.text(st.characters(), max_size=60) | st.from_regex(r"[a-z2-7]{8}\.[a-z2-7]{32}", fullmatch=True)


def code(answer: JoinToken | Reason) -> Code | None:
    """None: accepted."""
    return answer.code if isinstance(answer, Reason) else None


@given(RANDOM, st.integers(0, 2 * 86_400))
def test_a_token_is_good_for_a_day(randomness: bytes, after_s: int) -> None:
    text, token = make_token(randomness, NOW)
    now = NOW + timedelta(seconds=after_s)
    answer = check_token({token.uid: token}, text, now)
    if after_s < TOKEN_LIFETIME.total_seconds():
        assert answer == token
        assert not is_forgettable(token, now)
    else:
        assert code(answer) is Code.JOIN_TOKEN_EXPIRED
        assert is_forgettable(token, now)


@given(RANDOM, st.integers(0, 2 * 86_400))
def test_a_token_is_good_for_one_node(randomness: bytes, after_s: int) -> None:
    text, token = make_token(randomness, NOW)
    spent = used(token, NodeUid(4))
    answer = check_token({token.uid: spent}, text, NOW + timedelta(seconds=after_s))
    assert isinstance(answer, Reason)
    assert answer.code is Code.JOIN_TOKEN_USED
    assert "node 4" in answer.text
    assert answer.remedy


@given(st.lists(RANDOM, min_size=1, max_size=5, unique_by=lambda r: r[:5]), TEXT)
def test_no_other_text_is_accepted(many: list[bytes], guess: str) -> None:
    made = dict(make_token(randomness, NOW) for randomness in many)
    tokens = {token.uid: token for token in made.values()}
    answer = check_token(tokens, guess, NOW)
    assert (made[guess] == answer) if guess in made else code(answer) is Code.JOIN_TOKEN_UNKNOWN


@given(RANDOM, st.data())
def test_a_token_with_one_wrong_character_is_unknown_even_when_it_was_used_or_has_expired(
    randomness: bytes, data: st.DataObject
) -> None:
    text, token = make_token(randomness, NOW)
    position = data.draw(st.integers(0, len(text) - 1))
    wrong = text[:position] + data.draw(st.characters().filter(lambda c: c != text[position])) + text[position + 1 :]
    record = data.draw(st.sampled_from([token, used(token, NodeUid(4))]))
    now = NOW + data.draw(st.sampled_from([timedelta(), TOKEN_LIFETIME * 2]))
    assert code(check_token({token.uid: record}, wrong, now)) is Code.JOIN_TOKEN_UNKNOWN
    assert code(check_token({}, text, now)) is Code.JOIN_TOKEN_UNKNOWN


@given(RANDOM)
def test_the_record_does_not_tell_the_token(randomness: bytes) -> None:
    text, token = make_token(randomness, NOW)
    secret = text.partition(".")[2]
    assert text.partition(".")[0] == token.uid
    assert secret not in repr(token)
    assert secret not in token.hash
    assert token.hash not in repr(token)


@given(st.sets(RANDOM, min_size=2, max_size=5))
def test_different_randomness_makes_different_tokens(many: set[bytes]) -> None:
    made = [make_token(randomness, NOW) for randomness in many]
    assert len({text for text, _ in made}) == len({token.hash for _, token in made}) == len(many)
