"""Names of the Unix sockets of a node's processes. Imports little: every command uses it."""

from pathlib import Path

from shardwright.model.ids import NodeUid


def control_path(run_directory: Path, node_uid: NodeUid) -> Path:
    """Control socket of a node's endpoint process."""
    return run_directory / f"endpoint-{node_uid}.sock"


def agent_path(run_directory: Path, node_uid: NodeUid) -> Path:
    """Socket of a node's agent."""
    return run_directory / f"agent-{node_uid}.sock"
