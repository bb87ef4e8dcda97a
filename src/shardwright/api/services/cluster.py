"""The cluster's options and policy as intents, and the event log. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from shardwright.api.codes import invalid, not_acceptable, not_found
from shardwright.api.schemas.v1 import cluster as wire
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.model.cluster import Cluster, Policy
from shardwright.model.event import Event, EventKind
from shardwright.model.view import ClusterView, Put

LOGS_MAX = 10_000
"""Maximum number of lines in one answer, regardless of the requested limit."""


def cluster_of(view: ClusterView) -> Cluster:
    """The cluster's record. Raises Rejected (404) before the cluster exists."""
    if view.cluster is None:
        raise not_found("not_found", "The cluster does not exist yet.")
    return view.cluster


def change_options(seen: Look, given: dict[str, object], *, is_dry_run: bool = False) -> Intent[Cluster]:
    """Change options of ``PUT /v1/cluster``; unknown keys are ignored, fixed ones must keep their value. Raises
    Rejected."""
    old = cluster_of(seen.view)
    shown = wire.cluster(old, seen.view)
    options = dict(old.options)
    policy = seen.view.policy
    for key, value in given.items():
        if key not in shown:
            continue
        if problem := wire.problem_with(key, value, shown[key]):
            raise invalid("invalid_parameter", f"{problem}.")
        if key not in wire.CHANGEABLE_OPTIONS:
            if value != shown[key]:
                raise not_acceptable("invalid_configuration", f"{key} cannot be changed.")
        elif key in wire.POLICY_FIELDS:
            policy = _with_policy(policy, key, value)
        elif value != shown[key]:
            options[key] = _checked_alerts(value) if key == "alert_settings" else value
    if options.get("password_min_length") == 0:
        raise invalid("invalid_parameter", "password_min_length: must be at least 1.")
    new = replace(old, options=options)
    writes = (*([Put(new)] if new != old else []), *([Put(policy)] if policy != seen.view.policy else []))
    if not writes or is_dry_run:
        return Intent(new)
    what = ", ".join(sorted(key for key in given if key in wire.CHANGEABLE_OPTIONS))
    return Intent(
        new, (*writes, audit(seen, EventKind.CLUSTER_OPTIONS_CHANGED, f"options of the cluster were changed: {what}"))
    )


def _checked_alerts(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    for key, setting in value.items():
        known = wire.ALERT_SETTINGS.get(key)
        if known is not None and (problem := wire.problem_with(f"alert_settings.{key}", setting, known)):
            raise invalid("invalid_parameter", f"{problem}.")
    return {key: setting for key, setting in value.items() if key in wire.ALERT_SETTINGS}


def change_policy(seen: Look, given: dict[str, object]) -> Intent[Policy]:
    """Change some keys of the policy; unknown keys are ignored. Raises Rejected."""
    old = seen.view.policy
    defaults = wire.policy(Policy(), seen.view.cluster)
    new = old
    for key, value in given.items():
        if key not in defaults:
            continue
        if problem := wire.problem_with(key, value, defaults[key]):
            raise invalid("invalid_parameter", f"{problem}.")
        new = _with_policy(new, key, value)
    if new == old:
        return Intent(old)
    what = ", ".join(sorted(key for key in given if key in defaults))
    return Intent(new, (Put(new), audit(seen, EventKind.CLUSTER_POLICY_CHANGED, f"the policy was changed: {what}")))


def _with_policy(policy: Policy, key: str, value: object) -> Policy:
    match wire.POLICY_FIELDS.get(key), value:
        case None, _:
            return replace(policy, extra={**policy.extra, key: value})
        case str(name), bool() | int():
            changes: dict[str, bool | int] = {name: value}
            return replace(policy, **changes)  # type: ignore[arg-type]
        case _:
            raise AssertionError(f"a policy key of a wrong type: {key}")


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The requested lines of the log. ``limit`` None: all, up to ``LOGS_MAX``."""

    since: datetime | None = None
    until: datetime | None = None
    is_newest_first: bool = False
    limit: int | None = None
    offset: int = 0


def log_query(parameters: dict[str, str]) -> LogQuery:
    """The query parameters of ``GET /v1/logs``. Raises Rejected."""
    order = parameters.get("order", "asc")
    if order not in ("asc", "desc"):
        raise invalid("invalid_parameter", "order: must be asc or desc.")
    return LogQuery(
        _time(parameters, "stime"),
        _time(parameters, "etime"),
        order == "desc",
        _number(parameters, "limit"),
        _number(parameters, "offset") or 0,
    )


def _time(parameters: dict[str, str], name: str) -> datetime | None:
    text = parameters.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign in a query means a space
    except ValueError as e:
        raise invalid("invalid_parameter", f"{name}: must be a time such as 2026-01-31T12:00:00Z.") from e
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(parameters: dict[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("invalid_parameter", f"{name}: must be an integer of at least 0.")
    return int(text)


def log_lines(events: Iterable[Event], query: LogQuery) -> list[Event]:
    """The requested lines; ``events`` are sorted, the oldest first."""
    found = [
        event
        for event in events
        if (query.since is None or event.at >= query.since) and (query.until is None or event.at <= query.until)
    ]
    if query.is_newest_first:
        found.reverse()
    limit = LOGS_MAX if query.limit is None else min(query.limit, LOGS_MAX)
    return found[query.offset : query.offset + limit]
