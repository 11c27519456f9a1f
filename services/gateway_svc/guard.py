"""What every request goes through: a deadline, protecting headers, typed errors, metrics.

Outermost, and plain ASGI: it costs a few microseconds for each request.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from gateway_svc.answers import PROTECTION, STRICT_TRANSPORT, Scope, Send, send_problem
from provledger import logs, telemetry
from provledger.errors import DeadlineExceededError
from provledger.http.connection import CUT_OFF
from provledger.rpc.errors import as_status_error

log = logs.get(__name__)

_requests = telemetry.counter("gateway.requests", doc="Answered requests, by route and status")
_seconds = telemetry.histogram("gateway.request_duration", doc="From request to answer, by route")
_bytes = telemetry.counter("gateway.response_body_bytes", unit="By", doc="Bodies sent, by route")

NOT_STARTED: Final = 0
_METHODS: Final = frozenset("GET HEAD POST PUT DELETE OPTIONS".split())


class Guard:
    """Wraps an application. request_timeout_s: for a request with its answer, in seconds."""

    def __init__(self, app: Any, *, request_timeout_s: float, tls: bool) -> None:
        self._app = app
        self._timeout_s = request_timeout_s
        self._headers = [*PROTECTION, *([STRICT_TRANSPORT] if tls else [])]

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            return
        started_s = time.perf_counter()
        status, sent = NOT_STARTED, 0

        async def guarded(message: Any) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._headers]}
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._app(scope, receive, guarded)
        except Exception as exc:
            error = as_status_error(exc)
            if isinstance(exc, TimeoutError):
                error = DeadlineExceededError("TIMED_OUT", "the answer took too long")
            if error.code in ("INTERNAL", "DATA_LOSS", "UNKNOWN"):
                log.error("gateway.failed", exc_info=exc, reason=error.reason)
            if status == NOT_STARTED:
                await send_problem(scope, guarded, error)
            else:
                # Half an answer cannot be taken back; the connection ends, and its reader knows.
                # At once: what is in its buffers would wait for a reader who may never read.
                log.info("gateway.cut_off", reason=error.reason, sent=sent)
                scope[CUT_OFF]()
        finally:
            route = str(scope.get("provledger.route", "other"))
            _requests.add(1, {"route": route, "status": status, "method": _method(scope)})
            _seconds.record(time.perf_counter() - started_s, {"route": route})
            _bytes.add(sent, {"route": route})


def _method(scope: Scope) -> str:
    """One of a few: what a stranger sends must not make a label each."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"
