"""How an endpoint process connects to a server: in clear or encrypted, as its target says."""

import asyncio
from dataclasses import replace

import pytest

from shardwright.endpoint.probe import probe
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import encryption
from shardwright.endpoint.tls import OwnCertificateUnusable
from shardwright.model.codes import Code
from shardwright.model.ids import ShardUid
from shardwright.trust.contexts import client_context
from testkit.certificates import members

CLEAR = Target(ShardUid(1), 1, "127.0.0.1", 1001)
ENCRYPTED = replace(CLEAR, uses_tls=True)


def test_a_target_says_whether_its_server_is_reached_encrypted() -> None:
    context = client_context(members().member(1))
    assert encryption(CLEAR, lambda: context) is None
    assert encryption(CLEAR, None) is None
    assert encryption(ENCRYPTED, lambda: context) is context


def test_nothing_is_sent_in_clear_to_a_server_that_encrypts() -> None:
    with pytest.raises(OwnCertificateUnusable) as refused:
        encryption(ENCRYPTED, None)
    assert refused.value.code is Code.CREDENTIALS_UNUSABLE
    assert "has no certificate" in asyncio.run(probe(ENCRYPTED, "secret", None))
