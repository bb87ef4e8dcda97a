"""``shardwright node check``: what is wrong with the nodes and the connections between them, and what helps."""

from typing import Annotated, Any

import typer

from shardwright.cli.failure import Exit
from shardwright.cli.session import CommandSession, node_uid
from shardwright.cli.table import table


def check(
    session: CommandSession,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="NODE", help="Numbers of nodes, such as 3 or node:3; default: all.")
    ] = None,
) -> None:
    """Check nodes: ports in both directions, clocks, disk, versions, limits and certificates.

    Ends with 0 if nothing has failed; warnings do not count. Otherwise with 1.
    """
    uids = [node_uid(text) for text in nodes or ()]
    if uids:
        found = [session.api.get(f"/v1/nodes/{uid}/check") for uid in dict.fromkeys(uids)]
        answer = {"cluster_test_result": all(one.get("result") for one in found), "nodes": found}
    else:
        answer = session.api.get("/v1/cluster/check")
    session.show(answer, lambda: findings_text(answer))
    if not answer.get("cluster_test_result"):
        raise typer.Exit(Exit.FAILED)


def findings_text(answer: dict[str, Any]) -> str:
    """The findings as a table, each once and with its remedy below, and a sentence on the result."""
    nodes = answer.get("nodes") or []
    findings: list[dict[str, Any]] = []
    for node in nodes:
        # A connection is a finding of both its nodes.
        findings += [finding for finding in node.get("findings") or [] if finding not in findings]
    failed = sum(finding.get("grade") == "failed" for finding in findings)
    names = ", ".join(f"node:{node.get('node_uid')}" for node in nodes)
    summary = f"{names}: {failed} failed, {len(findings) - failed} warnings"
    if not findings:
        return f"{names}: nothing found"
    rows = [[f"node:{f.get('node_uid')}", f.get("grade"), f.get("code"), f.get("description")] for f in findings]
    remedies = dict.fromkeys((str(f.get("code")), str(f.get("remedy"))) for f in findings if f.get("remedy"))
    lines = [f"  {code}: {remedy}" for code, remedy in remedies]
    return "\n".join([table(("NODE", "GRADE", "CODE", "FINDING"), rows), "", "What helps:", *lines, "", summary])
