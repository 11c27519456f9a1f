"""Unary calls served while places are scarce: their message is read by us, and not by gRPC.

See `places` for why, and for what it is worth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from provledger.errors import DeadlineExceededError
from provledger.rpc.places import Places
from provledger.rpc.refusals import malformed, refusal
from provledger.rpc.watches import Behaviour


def carefully(
    method: str,
    run: Behaviour,
    identify: Callable[[Any], str],
    places: Places,
    *,
    limit_s: float,
    answers: bool,
) -> Behaviour:
    """`run`, once the caller may call and has sent a message.

    identify: servicer context to principal; raises where he may not call.
    limit_s: how long the message is waited for.
    answers: it returns its one answer, and does not write any itself.
    """

    async def careful(_: Any, context: Any) -> None:
        try:
            principal = identify(context)
            with places.silent(principal):
                data = await _only_message(context, limit_s)
        except Exception as exc:
            refused = refusal(method, exc)
        else:
            answer = await run(data, context)
            if answers:
                places.answered(principal, context)
                await _write(context, answer)
            return
        await context.abort(*refused)

    return careful


async def _write(context: Any, answer: Any) -> None:
    """Write the one answer.

    Raises:
        CancelledError: the caller hung up, which is no fault of ours (see `refusal`).
    """
    try:
        await context.write(answer)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


async def _only_message(context: Any, limit_s: float) -> bytes:
    """The message of a call that may have one.

    Raises:
        DeadlineExceededError: it did not come in time.
        InvalidArgumentError: there is none.
    """
    try:
        async with asyncio.timeout(limit_s):
            data = await context.read()
    except TimeoutError:
        raise DeadlineExceededError(
            "DEADLINE_EXCEEDED", f"the request did not come within {limit_s:g} s"
        ) from None
    if data is grpc.aio.EOF:
        raise malformed()
    message: bytes = data
    return message
