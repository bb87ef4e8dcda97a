"""The settings of a node as the text of ``node.toml``: ``render`` writes it, ``parse`` reads it back as it was.

Pure. Called by ``settings_file.py`` and by what creates or joins a cluster. A text is refused as a whole, with all its
problems and their lines; an unknown key is a problem, because it is likely a misspelled one.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from shardwright.errors import Refusal, Rejected
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.node.settings import Directories, NodeSettings, Ports, Problem, StorePlace, problems

_HEAD = """\
# What this node's daemon needs before it can read the store. Everything else is in the store.
# Written when the node was created or joined. The daemon reads it when it starts.
"""


class _UnfitValue(ValueError):
    """The value has another type or form than the setting."""


# -- values -----------------------------------------------------------------------------------------------------------------


def _whole_number(value: object) -> int:
    if type(value) is not int:
        raise _UnfitValue("a whole number")
    return value


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise _UnfitValue("true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _UnfitValue("a text in quotation marks")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _UnfitValue("a list of texts")
    return tuple(value)


def _path(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise _UnfitValue("a path")
    return Path(text)


def _address(value: object) -> Any:
    try:
        return ip_address(_text(value))
    except ValueError as e:
        raise _UnfitValue("an IP address") from e


def _addresses(value: object) -> Any:
    return tuple(_address(text) for text in _texts(value))


def _network(value: object) -> Any:
    try:
        return ip_network(_text(value))
    except ValueError as e:
        raise _UnfitValue("a network such as 10.0.0.0/24, without bits behind its prefix") from e


_READERS: dict[str, Callable[[object], Any]] = {
    "node.uid": _whole_number,
    "node.addresses": _addresses,
    "node.external_address": _address,
    "network.cluster": _network,
    "network.accept_public": _yes_or_no,
    "store.endpoints": _texts,
    "store.authority": _path,
    "store.certificate": _path,
    "store.key": _path,
    **{f"ports.{f.name}": _whole_number for f in fields(Ports)},
    **{f"directories.{f.name}": _path for f in fields(Directories)},
}
"""All settings, in the order of the file."""
_REQUIRED = ("node.uid", "node.addresses", "store.endpoints")
_STORE_FILES = {"store.authority": "ca.pem", "store.certificate": "store.pem", "store.key": "node-key.pem"}
"""Where they are unless the file says otherwise, in the directory of the configuration."""


# -- reading ----------------------------------------------------------------------------------------------------------------


def parse(text: str, *, name: str) -> NodeSettings:
    """The settings in the text of a file called ``name``. Raises Rejected ``node_settings_invalid`` with every problem that
    was found, each with its line and its remedy."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise _refused(name, text, [Problem("", f"not TOML: {e}", "correct the line, or write the file again")]) from e
    found: list[Problem] = []
    values = _values(document, found)
    found += [Problem(key, "is missing", f"add {key}") for key in _REQUIRED if key not in _keys(document)]
    if found:
        raise _refused(name, text, found)
    settings = _settings(values)
    if found := problems(settings):
        raise _refused(name, text, found)
    return settings


def _keys(document: dict[str, Any]) -> dict[str, object]:
    """The settings by their full names. What is not in a table keeps its short name."""
    flat: dict[str, object] = {}
    for table, content in document.items():
        flat |= (
            {f"{table}.{key}": value for key, value in content.items()} if isinstance(content, dict) else {table: content}
        )
    return flat


def _values(document: dict[str, Any], found: list[Problem]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, given in _keys(document).items():
        reader = _READERS.get(key)
        if reader is None:
            similar = difflib.get_close_matches(key, _READERS, n=1)
            found.append(Problem(key, "is not a setting", f"write {similar[0]}" if similar else "remove it"))
            continue
        try:
            values[key] = reader(given)
        except _UnfitValue as e:
            found.append(Problem(key, f"is {given!r}, which is not {e}", f"give {e}"))
    return values


def _settings(values: dict[str, Any]) -> NodeSettings:
    def table(name: str) -> dict[str, Any]:
        return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}

    directories = Directories(**table("directories"))
    if any(endpoint.startswith("https:") for endpoint in values["store.endpoints"]):
        usual = {key: directories.configuration / file for key, file in _STORE_FILES.items()}
        values = usual | values
    return NodeSettings(
        node_uid=NodeUid(values["node.uid"]),
        addresses=values["node.addresses"],
        store=StorePlace(**table("store")),
        external_address=values.get("node.external_address"),
        cluster_network=values.get("network.cluster"),
        is_public_network_accepted=values.get("network.accept_public", False),
        ports=Ports(**table("ports")),
        directories=directories,
    )


def _refused(name: str, text: str, found: list[Problem]) -> Rejected:
    def sentence(problem: Problem) -> str:
        line = line_of(text, problem.key)
        place = ", ".join(part for part in (name, f"line {line}" if line else "") if part)
        said = f"{problem.key} {problem.text}".strip()
        return f"{place}: {said}" if place else said

    remedies = dict.fromkeys(p.remedy for p in found)
    sentences = "; ".join(sentence(p) for p in found)
    return Rejected(Refusal.INVALID, Code.NODE_SETTINGS_INVALID, sentences, remedy="; ".join(remedies))


_TABLE = re.compile(r"\s*\[\s*([\w.\"' -]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([\w\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, that sets the key; of a missing key, the line of its table. None: the text has neither."""
    table = ""
    heading: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if (match := _TABLE.match(line)) is not None:
            table = _plain(match[1])
            if table == key.partition(".")[0]:
                heading = number
        elif (match := _KEY.match(line)) is not None:
            name = _plain(match[1])
            if (f"{table}.{name}" if table else name) == key:
                return number
    return heading


def _plain(name: str) -> str:
    return re.sub(r"[\s\"']", "", name)


# -- writing ----------------------------------------------------------------------------------------------------------------


def render(settings: NodeSettings) -> str:
    """The text of ``node.toml``; ``parse`` returns equal settings. Raises Rejected ``node_settings_invalid`` if they are
    unusable."""
    if found := problems(settings):
        raise _refused("", "", found)
    store, ports, directories = settings.store, settings.ports, settings.directories
    values: dict[str, object] = {
        "node.uid": settings.node_uid,
        "node.addresses": settings.addresses,
        "node.external_address": settings.external_address,
        "network.cluster": settings.cluster_network,
        "network.accept_public": settings.is_public_network_accepted or None,
        **{f"store.{f.name}": getattr(store, f.name) for f in fields(store)},
        **{f"ports.{f.name}": getattr(ports, f.name) for f in fields(ports)},
        **{f"directories.{f.name}": getattr(directories, f.name) for f in fields(directories)},
    }
    lines, table = [_HEAD], ""
    for key in _READERS:
        if (value := values[key]) is None:
            continue
        if table != (table := key.partition(".")[0]):
            lines.append(f"{'' if len(lines) == 1 else chr(10)}[{table}]\n")
        lines.append(f"{key.partition('.')[2]} = {_rendered(value)}\n")
    return "".join(lines)


def _rendered(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case tuple():
            return f"[{', '.join(_rendered(v) for v in value)}]"
        case _:
            # Settings are printable text, for which JSON and TOML agree.
            return json.dumps(str(value), ensure_ascii=False)
