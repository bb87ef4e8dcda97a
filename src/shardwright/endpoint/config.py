"""The configuration file of an endpoint process: where callers from other machines reach it, and with which certificate.

    [control]
    address = "10.0.0.1"
    port = 9445
    certificate = "/etc/shardwright/node.pem"
    key = "/etc/shardwright/node-key.pem"
    authority = "/etc/shardwright/ca.pem"
    revoked = "/var/lib/shardwright/endpoint/revoked"

Contains paths and no secret. Keys that this version does not know are ignored.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwright.endpoint.protocol import CONTROL_PORT
from shardwright.trust.files import MemberFiles


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The section ``[control]``."""

    address: str
    files: MemberFiles
    port: int = CONTROL_PORT
    revoked: Path | None = None
    """The serials that are revoked by now, one a line; None: unknown."""


def read_config(path: Path) -> ControlConfig | None:
    """The configuration in a file; None: it has no section ``[control]``, and only callers of this machine are accepted.
    Raises ValueError, which says what is wrong."""
    try:
        return config_of(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def config_of(text: str) -> ControlConfig | None:
    """See ``read_config``."""
    section = tomllib.loads(text).get("control")
    if section is None:
        return None
    if not isinstance(section, dict):
        raise ValueError("control is not a section")
    port = section.get("port", CONTROL_PORT)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ValueError("control.port is not a port")
    files = MemberFiles(*(Path(_text(section, name)) for name in ("certificate", "key", "authority")))
    revoked = Path(_text(section, "revoked")) if "revoked" in section else None
    return ControlConfig(_text(section, "address"), files, port, revoked)


def text_of(config: ControlConfig) -> str:
    """The text of a file with this configuration; ``config_of`` reads it back."""
    files = config.files
    named = {"address": config.address, "certificate": files.certificate, "key": files.key, "authority": files.authority}
    if config.revoked is not None:
        named["revoked"] = config.revoked
    # Paths and addresses are printable text, for which JSON and TOML agree.
    lines = [f"{name} = {json.dumps(str(value), ensure_ascii=False)}" for name, value in named.items()]
    return "\n".join(["[control]", f"port = {config.port}", *lines, ""])


def _text(section: dict[str, Any], name: str) -> str:
    value = section.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"control.{name} is missing")
    return value
