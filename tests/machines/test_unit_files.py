"""The package's units: what systemd's own check says of them, and the settings on which the lives of servers depend."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shardwright.node.settings import RESERVED_PORTS
from testkit.machines.accounts import account_of
from testkit.machines.unit_files import UNITS, Command, load_unit, parse_unit, seconds, settings_of

PACKAGING = UNITS.parent
VIRTUAL_ADDRESS = PACKAGING / "examples" / "virtual-address.conf"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))


# -- the reader ----------------------------------------------------------------------------------------------------------


def test_a_unit_file_is_read_with_drop_ins_lists_and_resets() -> None:
    unit = parse_unit(
        "x.service",
        "# a comment\n[Unit]\nAfter=a b\nAfter=c\n[Service]\nExecStart=/bin/a \\\n  one\n; another\nEnvironment=A=1\n",
        "[Service]\nExecStart=\nExecStart=-/bin/b 'two words'\n",
    )
    assert unit.all("Unit", "After") == ["a b", "c"]
    assert settings_of(unit).start == Command(("/bin/b", "two words"), may_fail=True)
    assert settings_of(unit).environment == {"A": "1"}
    assert unit.last("Service", "Type", "simple") == "simple"


@pytest.mark.parametrize("text", ["[Service]\nnonsense\n", "Type=notify\n"])
def test_what_is_no_unit_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no setting in a section"):
        parse_unit("x.service", text)


@pytest.mark.parametrize("line", ["KillMode=mixed", "Type=dbus", "Restart=on-abort", "OOMPolicy=kill"])
def test_what_the_harness_cannot_honor_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is not supported"):
        settings_of(parse_unit("x.service", f"[Service]\nExecStart=/bin/true\n{line}\n"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("5s", 5.0), ("500ms", 0.5), ("10min", 600.0), ("1min 30s", 90.0), ("2", 2.0), ("0", None), ("infinity", None)],
)
def test_times_are_those_of_systemd(text: str, value: float | None) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        seconds(text)


# -- the units -----------------------------------------------------------------------------------------------------------


def test_a_restart_of_the_daemon_touches_no_server() -> None:
    unit = load_unit("shardwright-node.service")
    settings = settings_of(unit)
    assert settings.kill_mode == "process"
    assert settings.oom_policy == "continue"
    assert settings.runtime_directories == ("shardwright",)
    assert settings.are_runtime_directories_kept
    views = (
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ReadOnlyPaths",
        "TemporaryFileSystem",
        "BindPaths",
    )
    assert [key for key in views if unit.all("Service", key)] == []


def test_the_daemon_is_watched_and_always_started_again() -> None:
    unit = load_unit("shardwright-node.service")
    settings = settings_of(unit)
    assert (settings.type, settings.restart, settings.restart_s, settings.watchdog_s) == ("notify", "always", 0.5, 5.0)
    assert unit.last("Unit", "StartLimitIntervalSec") == "0"
    assert settings.restart_prevented_by == {os.EX_CONFIG}
    assert settings.stop_post[0].may_fail


def test_no_start_waits_for_a_majority_of_the_store() -> None:
    """The daemon starts after the member of the store. A member that says when it is ready would say so only with others."""
    assert "shardwright-etcd.service" in load_unit("shardwright-node.service").last("Unit", "After").split()
    assert settings_of(load_unit("shardwright-etcd.service")).type == "exec"


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_runs_as_root_and_nothing_before_the_machine_is_a_node(name: str) -> None:
    unit = load_unit(name)
    assert unit.last("Service", "User") == "shardwright"
    assert unit.last("Service", "NoNewPrivileges") == "yes"
    assert unit.last("Service", "CapabilityBoundingSet") == ""
    assert unit.last("Unit", "ConditionPathExists").startswith("/etc/shardwright/")
    assert unit.last("Unit", "PartOf") == unit.last("Install", "WantedBy") == "shardwright.target"


def test_only_the_drop_in_for_virtual_addresses_gives_capabilities() -> None:
    unit = load_unit("shardwright-node.service", VIRTUAL_ADDRESS.read_text())
    assert account_of(load_unit("shardwright-node.service")).becoming() == []
    assert unit.last("Service", "CapabilityBoundingSet") == unit.last("Service", "AmbientCapabilities")
    words = account_of(unit).becoming()
    assert words[:2] == ["setpriv", "--reuid=shardwright"]
    assert "--ambient-caps=+net_admin,+net_raw" in words


@pytest.mark.parametrize("has_drop_in", [False, True])
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, has_drop_in: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze was not found (apt-get install systemd)")
    stub = tmp_path / "program"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    programs = {line.split()[0].lstrip("-") for name in SERVICES for line in _commands(name)}
    assert "/usr/bin/etcd" in programs
    copies = []
    for path in sorted(UNITS.iterdir()):
        text = path.read_text()
        # It checks that the programs exist; here the package is not installed.
        for program in programs:
            text = text.replace(program, str(stub))
        copy = tmp_path / path.name
        copy.write_text(text)
        copies.append(str(copy))
    if has_drop_in:
        (tmp_path / "shardwright-node.service.d").mkdir()
        shutil.copy(VIRTUAL_ADDRESS, tmp_path / "shardwright-node.service.d")
    line = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *copies]
    found = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (found.stdout + found.stderr, found.returncode) == ("", 0)


def _commands(name: str) -> list[str]:
    unit = load_unit(name)
    return [line for key in ("ExecStart", "ExecStop", "ExecStopPost") for line in unit.all("Service", key)]


# -- what is beside them -------------------------------------------------------------------------------------------------


def test_ports_of_databases_and_servers_are_reserved() -> None:
    line = f"net.ipv4.ip_local_reserved_ports = {RESERVED_PORTS.start}-{RESERVED_PORTS.stop - 1}"
    assert line in (PACKAGING / "snippets" / "sysctl.conf").read_text().splitlines()


@pytest.mark.parametrize(("state", "status"), [("running", 0), ("degraded", 0), ("", 0), ("stopping", 127)])
def test_a_node_is_emptied_only_when_its_machine_shuts_down(tmp_path: Path, state: str, status: int) -> None:
    """127: the script has gone on to the daemon's program, which does not exist here."""
    if Path("/usr/lib/shardwright").exists():
        pytest.skip("the package is installed here")
    fake = tmp_path / "systemctl"
    fake.write_text(f"#!/bin/sh\necho '{state}'\nexit 1\n")
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ran = subprocess.run(
        [PACKAGING / "drain-at-shutdown"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == status, ran


@pytest.mark.parametrize("script", ["build-deb", "drain-at-shutdown", "debian/postinst", "debian/prerm", "debian/postrm"])
def test_scripts_have_no_syntax_errors(script: str) -> None:
    path = PACKAGING / script
    shell = path.read_text().split("\n", 1)[0].split()[-1].rpartition("/")[2]
    assert subprocess.run([shell, "-n", path], timeout=30, check=False).returncode == 0
    assert os.access(path, os.X_OK)
