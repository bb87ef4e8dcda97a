"""The map from errors to HTTP statuses, and the common format of error answers. Called by the app and its middleware."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse

from shardwright.errors import Refusal, Rejected, ShardwrightError, Transient
from shardwright.model.codes import Code
from shardwright.model.reason import Reason
from shardwright.store.protocol import StoreFull, StoreReplaced, StoreUnavailable, TooLarge

STATUS_OF: Final[dict[Refusal, int]] = {
    Refusal.INVALID: 400,
    Refusal.UNAUTHENTICATED: 401,
    Refusal.FORBIDDEN: 403,
    Refusal.NOT_FOUND: 404,
    Refusal.NOT_ACCEPTABLE: 406,
    Refusal.CONFLICT: 409,
}
"""Total: a test checks every member of the enum."""

_STATUS_BY_CODE: Final[dict[str, int]] = {
    "body_too_large": 413,
    "uri_too_long": 414,
    "request_timeout": 408,
    "unsupported_api_version": 505,
    "method_not_allowed": 405,
    "internal_error": 500,
    "certificates_not_replaceable": 501,
    "store_unavailable": 503,
    "not_ready": 503,
    "node_stopping": 503,
    "too_many_connections": 503,
    "malformed_http": 400,
    "authority_key_absent": 503,
    "store_learner_pending": 503,
    "too_many_attempts": 429,
    "bdb_unavailable": 503,
    "bdb_unavailable_shard_unreachable": 503,
    "bdb_unavailable_port_unbound": 503,
    "bdb_endpoint_unavailable": 503,
    "endpoint_leaving": 404,
}
"""Statuses without a refusal of their own."""


class RefusedForReasons(Rejected):
    """A refusal with all its reasons, which the answer lists."""

    def __init__(self, refusal: Refusal, code: str, text: str, reasons: tuple[Reason, ...]) -> None:
        super().__init__(refusal, code, text, remedy="; ".join(dict.fromkeys(r.remedy for r in reasons if r.remedy)))
        self.reasons = reasons


class Unavailable(ShardwrightError):
    """503: a health check found that the object does not serve. The request changes nothing. ``extra``: additional keys of
    the answer."""

    def __init__(self, code: str, text: str, *, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(code, text)
        self.extra = dict(extra or {})


def error_answer(
    status: int,
    code: str,
    text: str,
    *,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> JSONResponse:
    """An error in the wire's format; ``message`` repeats the text because some clients read this key."""
    return JSONResponse(
        {"error_code": code, "description": text, "message": text, **(extra or {})},
        status_code=status,
        headers=dict(headers) if headers else None,
    )


def answer_of(error: Exception) -> JSONResponse:
    """The answer to an error that ended a request. An unknown error is a bug: 500, without details."""
    match error:
        case RefusedForReasons():
            reasons = [{"code": r.code, "description": r.text, "remedy": r.remedy} for r in error.reasons]
            extra = {"reasons": reasons, "remedy": error.remedy}
            return error_answer(STATUS_OF[error.refusal], error.code, error.text, extra=extra)
        case Rejected():
            text = f"{error.text} {error.remedy}".strip()
            headers = {"WWW-Authenticate": 'Basic realm="Shardwright"'} if error.refusal is Refusal.UNAUTHENTICATED else None
            return error_answer(STATUS_OF[error.refusal], error.code, text, headers=headers)
        case StoreFull() | StoreReplaced():
            return coded("store_unavailable", f"{error.text}. Remedy: {error.code.remedy}.")
        case StoreUnavailable():
            return coded("store_unavailable", "The store cannot be reached or is locked. Try again.")
        case TooLarge():
            return error_answer(413, "request_too_large_to_store", error.text)
        case Unavailable():
            return error_answer(_STATUS_BY_CODE[error.code], error.code, error.text, extra=error.extra)
        case Transient(code=Code.CLUSTER_KEY_AWAITED):
            return coded("not_ready", f"{error.text[:1].upper()}{error.text[1:]}. Try again.")
        case Transient():
            return error_answer(
                409, "config_edit_conflict", "Other clients changed the same records at the same time. Try again."
            )
        case _:
            return coded("internal_error", "A bug ended this request. The log of this node has the details.")


def coded(code: str, text: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error whose code determines the status."""
    return error_answer(_STATUS_BY_CODE[code], code, text, headers=headers)
