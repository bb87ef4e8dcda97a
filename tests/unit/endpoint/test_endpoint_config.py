"""What an endpoint process reads from files: how callers from other machines reach it, and whom it must not admit."""

from pathlib import Path

from shardwright.endpoint.config import ControlConfig, config_of, text_of
from shardwright.endpoint.credentials import RevokedSerials
from shardwright.machine.files import write_private
from shardwright.trust.files import MemberFiles


def test_revoked_serials_are_those_of_the_file_now(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    revoked = RevokedSerials(path)
    assert set(revoked()) == set()
    write_private(path, b"a1\nb2\n")
    assert set(revoked()) == {"a1", "b2"}
    write_private(path, b"b2\n")
    assert set(revoked()) == {"b2"}
    path.unlink()
    assert set(revoked()) == {"b2"}, "a missing file says nothing"
    write_private(path, b"\xff\n")
    assert set(revoked()) == {"b2"}
    write_private(path, b"")
    assert set(revoked()) == set()


def test_the_configuration_is_read_back_as_it_was_written() -> None:
    files = MemberFiles(Path("/etc/own.pem"), Path('/etc/"own" key.pem'), Path("/etc/ca.pem"))
    for config in (ControlConfig("10.0.0.1", files), ControlConfig("::1", files, 9500, Path("/var/revöked"))):
        assert config_of(text_of(config)) == config
