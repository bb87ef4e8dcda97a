"""One request to the supervisor of a machine, from inside or outside it."""

import json
import socket
from pathlib import Path
from typing import Any

ANSWER_S = 120.0
"""A stop may take as long as the units' limits say."""


class CallRefused(Exception):
    """The supervisor says why it did not do it."""


def call(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Raises OSError when nothing answers, CallRefused."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    if not line:
        raise ConnectionResetError(f"{path} was closed")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise CallRefused(str(answer["error"]))
    return answer
