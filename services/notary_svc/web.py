"""The notary over HTTP: two paths of c2sp.org/tlog-witness.

    POST /add-checkpoint                        a checkpoint in, cosignature lines out
    GET  /{hex of the origin's hash}/checkpoint the checkpoint cosigned last, with all lines
    GET  /healthz                               for whoever watches the process

Nobody is authenticated: a checkpoint is public, and only its log can have signed it. What bounds
a stranger is the size of a body, the time it may take, and that a request costs one check of a
signature before it touches the database.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from notary_svc.cosigning import (
    MAX_BODY_BYTES,
    TEXT,
    Cosigned,
    RefusedError,
    authenticate,
    extend,
    origin_id,
    own_lines,
    parse_request,
)
from notary_svc.released import Released, check_found
from notary_svc.signing import Cosigner
from notary_svc.storage import Storage
from provledger import logs, telemetry
from provledger.errors import NoteError, StatusError
from provledger.note import VerifierKey
from provledger.seldom import Seldom

log = logs.get(__name__)

BODY_TIMEOUT_S: Final = 10.0
_ORIGIN_ID: Final = re.compile("[0-9a-f]{64}", re.ASCII)
_answers = telemetry.counter("notary.answers", doc="Answers to add-checkpoint, by status")


class Notary:
    """The two paths. Belongs to one event loop."""

    def __init__(
        self,
        cosigner: Cosigner,
        trusted: Mapping[str, Sequence[VerifierKey]],
        storage: Storage,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._cosigner = cosigner
        self._trusted = trusted
        self._storage = storage
        self._clock = clock
        self._seldom = Seldom()
        self._released = Released()
        # One update of an origin at a time: what it released is remembered before the next is
        # decided, be it by another database.
        self._turns = {origin: asyncio.Lock() for origin in trusted}

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/add-checkpoint", self._add_checkpoint, methods=["POST"]),
                Route("/healthz", _healthz, methods=["GET"]),
                Route("/{origin_id}/checkpoint", self._latest, methods=["GET"]),
            ]
        )
        # It would lead to whatever host the client has named.
        app.router.redirect_slashes = False
        return app

    async def add(self, body: bytes) -> bytes:
        """Cosign the checkpoint of a request; our lines. Raises RefusedError, StatusError."""
        submission = authenticate(parse_request(body), self._trusted)
        now_unix_s = max(1, self._clock() // 1_000_000_000)
        origin = submission.request.checkpoint.origin
        key = origin_id(origin)

        def decide(last: Cosigned | None) -> Cosigned:
            check_found(last, self._released.of(key))
            if last is not None:
                self._released.add(key, last)
            return extend(submission, last, lambda text: self._cosigner.cosign(text, now_unix_s))

        async with self._turns[origin]:
            try:
                # Stored before it is released: what leaves here can never be contradicted.
                stored = await self._storage.update(origin, decide)
            except NoteError as error:
                raise RefusedError(400, f"this checkpoint cannot be cosigned: {error}") from error
            self._released.add(key, stored)
        return own_lines(stored.note, self._cosigner.names)

    async def _add_checkpoint(self, request: Request) -> Response:
        try:
            response: Response = PlainTextResponse(await self.add(await _body(request)))
        except RefusedError as refused:
            # Anybody may be refused as often as he likes; `notary.answers` counts them all.
            if times := self._seldom.times(str(refused.status)):
                why = str(refused)
                log.info("notary.refused", status=refused.status, why=why, times=times)
            response = Response(
                refused.body, refused.status, headers={"Content-Type": refused.media_type}
            )
        except StatusError as error:
            log.error("notary.failed", exc_info=error)
            response = Response(
                "try again\n", 503, headers={"Content-Type": TEXT, "Retry-After": "1"}
            )
        _answers.add(1, {"status": response.status_code})
        return response

    async def _latest(self, request: Request) -> Response:
        key = request.path_params["origin_id"]
        try:
            # What can be no hash is not asked for: no storage has to take any text there is.
            found = await self._found(key) if _ORIGIN_ID.fullmatch(key) is not None else None
        except StatusError as error:
            log.error("notary.failed", exc_info=error)
            return PlainTextResponse("try again\n", 503)
        if found is None:
            return PlainTextResponse("nothing was cosigned for this log\n", 404)
        return PlainTextResponse(found.note, headers={"Cache-Control": "no-cache"})

    async def _found(self, key: str) -> Cosigned | None:
        """What was cosigned last, which is released by it. Raises StatusError."""
        released = self._released.of(key)
        found = await self._storage.latest(key)
        check_found(found, released)
        if found is not None:
            self._released.add(key, found)
        return found


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _body(request: Request) -> bytes:
    """The whole body, which is given up on as soon as it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RefusedError(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise RefusedError(408, "the body took too long") from error
    except ClientDisconnect as error:
        raise RefusedError(400, "the body ended early") from error
    return bytes(body)
