"""A small client of the REST API: basic auth, verified TLS, and failover to another node's address.

Every command uses it. It repeats only requests that were certainly not received, or that change nothing.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from shardwright.cli.access import Access
from shardwright.cli.failure import Exit, Failure

CONNECT_TIMEOUT_S = 3.0
"""A live node on a working network accepts within this time; a frozen daemon does not answer the TLS handshake either."""
READ_TIMEOUT_S = 10.0
"""A read waits for no commit. If a daemon takes longer, it is frozen, and the client asks the next node."""
ANSWER_TIMEOUT_S = 30.0
"""The slowest changes commit to a store that may be busy for 5 s."""


class ApiClient:
    """Asks one node after another, starting with the last one that answered."""

    def __init__(
        self, access: Access, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._urls = list(access.urls)
        self._remedy = access.remedy
        self._reading = httpx.Timeout(read_timeout_s, connect=connect_timeout_s)
        self._changing = httpx.Timeout(ANSWER_TIMEOUT_S, connect=connect_timeout_s)
        self._http = httpx.Client(
            auth=httpx.BasicAuth(access.username, access.password),
            verify=_trust(access.certificate, is_named=access.is_named),
            headers={"accept": "application/json"},
            trust_env=False,  # a proxy from the environment must not stand between an operator and a cluster
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, *, query: Mapping[str, str | int] | None = None) -> Any:
        """The answer's decoded JSON. Raises Failure, like all of these methods."""
        return self._call("GET", path, query=query)

    def post(
        self, path: str, body: Mapping[str, object] | None = None, *, query: Mapping[str, str | int] | None = None
    ) -> Any:
        return self._call("POST", path, query=query, body=body or {})

    def put(self, path: str, body: Mapping[str, object]) -> Any:
        return self._call("PUT", path, body=body)

    def delete(self, path: str, *, query: Mapping[str, str | int] | None = None) -> Any:
        return self._call("DELETE", path, query=query)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:
        timeout = self._reading if method == "GET" else self._changing
        why: list[str] = []
        last_refusal: Failure | None = None
        for url in tuple(self._urls):
            try:
                answer = self._http.request(method, url + path, params=query, json=body, timeout=timeout)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                why.append(f"{url}: {_reason(error)}")
                continue
            except httpx.TransportError as error:
                # The request may have arrived. Only a request that changes nothing is repeated.
                why.append(f"{url}: {_reason(error)}")
                if method == "GET":
                    continue
                raise Failure(
                    Exit.UNREACHABLE,
                    "outcome_unknown",
                    f"{url} did not answer {method} {path}: the change may or may not have happened",
                    remedy="check before you repeat it: shardwright status, shardwright action list",
                ) from error
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and method == "GET":
                last_refusal = _refusal(answer, url)
                why.append(f"{url}: {last_refusal.text}")
                continue
            self._prefer(url)
            return _decoded(answer, url)
        if last_refusal is not None:
            raise last_refusal
        raise Failure(
            Exit.UNREACHABLE,
            "unreachable",
            "no node of the cluster answers:\n  " + "\n  ".join(why),
            remedy=self._remedy,
        )

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            self._urls.remove(url)
            self._urls.insert(0, url)


def _trust(certificate: Path | None, *, is_named: bool) -> ssl.SSLContext:
    if certificate is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except (ssl.SSLError, OSError) as error:
        raise Failure(Exit.USAGE, "bad_certificate", f"{certificate} is unusable: {error}") from error
    # A local cluster has one certificate, which does not contain the addresses of nodes added later. It alone is trusted, so
    # its name adds nothing. A certificate from the user may be such a one.
    context.check_hostname = is_named
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _decoded(answer: httpx.Response, url: str) -> Any:
    if answer.is_success:
        try:
            return answer.json() if answer.content else {}
        except ValueError as error:
            raise Failure(Exit.UNREACHABLE, "bad_answer", f"{url} is not the API: its answer is not JSON") from error
    raise _refusal(answer, url)


def _refusal(answer: httpx.Response, url: str) -> Failure:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    text = str(body.get("description") or body.get("message") or f"{url} answered {answer.status_code}")
    code = str(body.get("error_code") or f"http_{answer.status_code}")
    lines = [text, *(f"  - {line}" for line in _reason_lines(body.get("reasons")))]
    remedy = str(body.get("remedy") or _usual_remedy(answer.status_code))
    unreachable = answer.status_code in (502, 503, 504)
    return Failure(
        Exit.UNREACHABLE if unreachable else Exit.FAILED, code, "\n".join(lines), remedy=remedy, status=answer.status_code
    )


def _reason_lines(reasons: object) -> list[str]:
    found = [reason for reason in reasons if isinstance(reason, dict)] if isinstance(reasons, list) else []
    return [str(reason.get("description") or reason.get("code") or "") for reason in found]


def _usual_remedy(status: int) -> str:
    match status:
        case 401:
            return "check --user and --password-file"
        case 403:
            return "the user's role does not allow this; use an admin account"
        case _:
            return ""


def _reason(error: httpx.TransportError) -> str:
    text = str(error) or type(error).__name__
    if "mismatch" in text and "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not of this address"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate is not trusted; give the cluster's: --certificate FILE (of a local cluster, DIR/tls/cert.pem; "
            "on several machines, a copy of /etc/shardwright/ca.pem)"
        )
    match error:
        case httpx.ConnectTimeout():
            return "connection timed out"
        case httpx.TimeoutException():
            return "answer timed out"
        case _:
            return text
