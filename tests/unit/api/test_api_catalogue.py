"""Codes, statuses, generated pages and OpenAPI: only catalogued codes are used, and every page is current."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from shardwright.api import errors
from shardwright.api.app import HINTS, MODULES, allowed_methods
from shardwright.api.codes import CODES
from shardwright.errors import Refusal

ROOT = Path(__file__).parents[3]
API = ROOT / "src/shardwright/api"
_CODE = re.compile(
    r"(?:invalid|not_found|conflict|not_acceptable|forbidden|coded|Unavailable|error_answer)\(\s*(?:\d+,\s*)?\"([a-z_]+)\""
)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_code_in_the_package_is_catalogued() -> None:
    used = {code for path in API.rglob("*.py") for code in _CODE.findall(path.read_text())}
    assert len(used) > 40
    assert used <= set(CODES)


def test_every_catalogued_code_is_used() -> None:
    text = "".join(path.read_text() for path in API.rglob("*.py") if path.name != "codes.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


def test_every_refusal_has_a_status() -> None:
    assert set(errors.STATUS_OF) == set(Refusal)


def test_the_generated_pages_are_current() -> None:
    assert _generator().outdated() == [], "run: python docs/generate.py"


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _references(value)]
    return [r for item in node for r in _references(item)] if isinstance(node, list) else []


def test_openapi_is_complete() -> None:
    document = _generator().openapi_document()
    assert document["openapi"].startswith("3.1")
    for reference in _references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    described = {
        (method.upper(), path.replace("{", "{").split("?")[0])
        for path, operations in document["paths"].items()
        for method in operations
    }
    served = {
        (method, route.path_format) for module in MODULES for route in module.router.routes for method in route.methods
    }
    assert described == served
    for operations in document["paths"].values():
        for method, operation in operations.items():
            assert operation["description"]
            assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
            assert ("requestBody" in operation) <= (method in ("post", "put"))
    names = [o["operationId"] for operations in document["paths"].values() for o in operations.values()]
    assert len(names) == len(set(names))


def test_methods_of_paths() -> None:
    assert allowed_methods("/v1/nodes/7") == {"GET", "PUT", "OPTIONS"}
    assert allowed_methods("/v1/nodes/7/actions/remove") == {"GET", "POST", "DELETE", "OPTIONS"}
    assert allowed_methods("/v1/nodes/x") == set()


def test_hints_are_for_methods_that_are_not_allowed() -> None:
    for method, pattern, _ in HINTS:
        path = pattern.pattern.replace(r"(\d+)", "1")
        assert pattern.fullmatch(path)
        assert method not in allowed_methods(path)
