"""The command tables agree with each other, and only the servers' own texts mean that nothing was executed."""

import pytest

from shardwright.endpoint.words import (
    BUSY_MAY_RUN,
    NEVER_QUEUED,
    NOT_PLAIN,
    READS,
    RULES,
    STORES_NOTHING,
    Treatment,
    is_aborted_by_refusal,
    is_refusal,
)


def test_every_word_is_upper_case_like_the_scanners_words() -> None:
    for word in (*RULES, *READS, *STORES_NOTHING, *NEVER_QUEUED, *(w for pair in BUSY_MAY_RUN for w in pair)):
        assert word == word.upper()


def test_every_rule_has_a_word_and_no_word_with_a_rule_is_plain() -> None:
    assert set(RULES.values()) == set(Treatment)
    assert all(word in NOT_PLAIN for word in RULES)
    assert b"GET" not in NOT_PLAIN


def test_commands_that_remove_elements_may_block_and_are_never_repeated() -> None:
    takes = {w for w, rule in RULES.items() if rule is Treatment.BLOCKING} - {b"WAIT", b"WAITAOF"}
    assert len(takes) == 8
    assert not takes & STORES_NOTHING
    assert b"XREADGROUP" not in STORES_NOTHING
    assert b"XREAD" in READS


def test_commands_that_begin_or_end_a_transaction_may_write() -> None:
    assert not {b"MULTI", b"EXEC"} & STORES_NOTHING


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (b"-READONLY You can't write against a read only replica.\r\n", True),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", True),
        (b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n", True),
        (b"-LOADING Valkey is loading the dataset in memory\r\n", True),
        (b"-REDIRECT 127.0.0.1:6379\r\n", True),
        (b"-READONLY mine\r\n", False),
        (b"-ERR READONLY You can't write\r\n", False),
        (b"$42\r\n-READONLY You can't write\r\n", False),
        (b"+OK\r\n", False),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", False),
        (b"-MISCONF Errors writing to the AOF file\r\n", False),
        (b"-BUSY Valkey is busy running a script\r\n", False),
    ],
)
def test_which_replies_mean_that_another_server_would_execute_the_command(reply: bytes, refused: bool) -> None:
    assert is_refusal(reply) is refused
    assert is_aborted_by_refusal(reply) is refused


def test_an_exec_names_the_cause_of_its_abort() -> None:
    cause = b"-EXECABORT Transaction discarded because of: %b\r\n"
    assert is_aborted_by_refusal(cause % b"READONLY You can't write against a read only replica.")
    assert is_aborted_by_refusal(cause % b"LOADING Redis is loading the dataset in memory")
    assert not is_aborted_by_refusal(cause % b"OOM command not allowed")
    assert not is_aborted_by_refusal(b"-EXECABORT Transaction discarded because of previous errors.\r\n")
