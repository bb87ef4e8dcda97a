"""Fencing hooks as real programs: which are run, how, and what their end means."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.errors import Transient
from shardwright.machine.fence_hooks import FenceHooks
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from testkit.builders import NOW
from testkit.deadlines import until

NODE = Node(NodeUid(3), "10.0.0.3", NOW, machine_id="machine-3")


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    directory = tmp_path / "fence.d"
    directory.mkdir(mode=0o755)
    return directory


def hook(directory: Path, name: str, *lines: str, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text("\n".join(("#!/bin/sh", f"echo {name} >> {directory.parent}/called", *lines, "")))
    path.chmod(mode)
    return path


def called(directory: Path) -> list[str]:
    path = directory.parent / "called"
    return path.read_text().split() if path.exists() else []


def switch_off(directory: Path, *, limit_s: float = 20.0) -> str | None:
    return asyncio.run(FenceHooks(directory, limit_s=limit_s).switch_off(NODE))


def test_without_hooks_nothing_can_be_switched_off(hooks: Path) -> None:
    assert switch_off(hooks) is None
    assert switch_off(hooks / "missing") is None


def test_a_hook_is_told_the_node_its_address_and_its_machine(hooks: Path) -> None:
    said = hooks.parent / "said"
    hook(hooks, "ipmi", f'echo "$@" "$SHARDWRIGHT_MACHINE_ID" "$SECRET" > {said}')
    os.environ["SECRET"] = "of the daemon"
    try:
        assert switch_off(hooks) == "ipmi"
    finally:
        del os.environ["SECRET"]
    assert said.read_text().strip() == "off 3 10.0.0.3 machine-3"


def test_the_first_success_is_enough_and_a_failure_lets_the_next_one_try(hooks: Path) -> None:
    hook(hooks, "10-ipmi", "exit 1")
    hook(hooks, "20-pdu", "exit 0")
    hook(hooks, "30-cloud", "exit 0")
    assert switch_off(hooks) == "20-pdu"
    assert called(hooks) == ["10-ipmi", "20-pdu"]


def test_if_none_succeeds_the_reason_names_each_with_what_it_said_last(hooks: Path) -> None:
    hook(hooks, "a", "echo connecting", "echo no route to the controller >&2", "exit 3")
    (hooks / "b").write_text("#!/no/such/program\n")
    (hooks / "b").chmod(0o755)
    with pytest.raises(Transient) as failed:
        switch_off(hooks)
    assert failed.value.code is Code.FENCING_FAILED
    assert "a ended with status 3: no route to the controller" in failed.value.text
    assert "b cannot be started: No such file or directory" in failed.value.text


def test_a_hook_that_hangs_is_killed_with_its_children(hooks: Path) -> None:
    pid = hooks.parent / "pid"
    hook(hooks, "slow", f"sleep 600 & echo $! > {pid}", "wait")
    with pytest.raises(Transient, match="slow did not end within 2 s"):
        switch_off(hooks, limit_s=2.0)
    child = Path(f"/proc/{pid.read_text().strip()}")
    until("its child has ended", lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2], seconds=10)


def test_a_hook_that_others_can_change_is_not_used(hooks: Path) -> None:
    hook(hooks, "open", mode=0o777)
    hook(hooks, "plain", mode=0o644)
    hook(hooks, "copy.sample")
    hook(hooks, "old~")
    (hooks / "directory").mkdir()
    assert FenceHooks(hooks).usable() == []
    right = hook(hooks, "right")
    assert FenceHooks(hooks).usable() == [right]
    hooks.chmod(0o777)
    assert FenceHooks(hooks).usable() == []


def test_no_machine_id_is_an_empty_one(hooks: Path) -> None:
    hook(hooks, "ipmi", 'test -z "$SHARDWRIGHT_MACHINE_ID"')
    assert asyncio.run(FenceHooks(hooks).switch_off(replace(NODE, machine_id=""))) == "ipmi"
