"""A call of the witness from end to end: check each draft, state it, have all of it signed.

The work is the processor's, tens of milliseconds for a thousand drafts. So that health checks and
other callers are answered meanwhile, the event loop gets its turn every few drafts, and drafts
large enough to take long by themselves are worked on in a thread. Large calls stand in line.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Final, NamedTuple, TypeAlias

from provledger import telemetry
from provledger.errors import InvalidArgumentError, ResourceExhaustedError
from provledger.rpc.errors import MAX_STATUS_BYTES
from witness_svc.checks import Document, Draft, Mutation, check
from witness_svc.line import Line
from witness_svc.signing import BatchSigner, SignedBatch
from witness_svc.statements import RANDOM_BYTES, Made, Place, StatementMaker

# From here on a draft has a thread to itself: a mebibyte of odd numbers takes half a second.
_LARGE_DRAFT_BYTES: Final = 16 * 1024

_RETRY_DELAY_S: Final = 0.25

Outcome: TypeAlias = Made | InvalidArgumentError

_rejections = telemetry.counter(
    "provledger.witness.rejections", unit="{draft}", doc="Drafts that did not pass."
)


class Item(NamedTuple):
    """A draft and what the ledger says about it. `receipt_id` is a UUIDv7 in 16 bytes."""

    receipt_id: bytes
    principal: str
    draft: Draft


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the drafts of a call, in order.

    `batch` is None if none passed; those that did stand in it, in order, from `first_index` on.
    """

    outcomes: list[Outcome]
    batch: SignedBatch | None
    first_index: int


class Witness:
    """Checks, states and has signed; for one event loop.

    `random` gives so many fresh random bytes. `max_in_work` bounds the drafts of all calls that
    are being worked on or wait to be signed; `max_answer_bytes` what one call may come to.
    """

    def __init__(
        self,
        signer: BatchSigner,
        *,
        max_in_work: int,
        max_answer_bytes: int,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._signer = signer
        self._random = random
        self._max_in_work = max_in_work
        self._max_answer_bytes = max_answer_bytes
        self._in_work = 0
        self._line = Line()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="witness-large")

    async def witness(
        self, place: Place, items: Iterable[Item], count: int, *, system: bool = False
    ) -> Answer:
        """Witness the drafts of one call; `count` is how many `items` will give.

        Raises:
            UnavailableError, ResourceExhaustedError, StatusError: nothing could be signed; no
                statement was kept, and the call may be repeated.
            InvalidArgumentError: the answer would be larger than a message may be.
        """
        # Asked first, so that a witness without a key turns callers away at no cost.
        self._signer.check_ready()
        # An idle witness takes any call, so that none is too large for ever.
        if self._in_work and self._in_work + count > self._max_in_work:
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                "the witness has too much to do; try again later",
                retry_delay_s=_RETRY_DELAY_S,
            )
        self._in_work += count
        try:
            with self._line.place(count) as turn:
                outcomes = await self._make(place, items, count, system, turn)
            leaf_hashes = [made.leaf_hash for made in outcomes if isinstance(made, Made)]
            if len(leaf_hashes) < len(outcomes):
                _rejections.add(len(outcomes) - len(leaf_hashes))
            if not leaf_hashes:
                return Answer(outcomes, None, 0)
            batch, first_index = await self._signer.sign(place.suite, leaf_hashes)
            return Answer(outcomes, batch, first_index)
        finally:
            self._in_work -= count

    async def close(self) -> None:
        """Sign what waits and end the thread."""
        await self._signer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _make(
        self,
        place: Place,
        items: Iterable[Item],
        count: int,
        system: bool,
        turn: Callable[[], Awaitable[None]],
    ) -> list[Outcome]:
        maker = StatementMaker(place)
        random = self._random(RANDOM_BYTES * count)
        outcomes: list[Outcome] = []
        answer_bytes = 0
        turn_ends_s = perf_counter() + self._line.turn_s(count)
        for index, item in enumerate(items):
            if perf_counter() > turn_ends_s:
                await turn()
                turn_ends_s = perf_counter() + self._line.turn_s(count)
            randomness = random[index * RANDOM_BYTES : (index + 1) * RANDOM_BYTES]
            outcome: Outcome
            if _size_of(item.draft) < _LARGE_DRAFT_BYTES:
                outcome = _make_one(maker, item, randomness, system)
            else:
                outcome = await asyncio.get_running_loop().run_in_executor(
                    self._threads, _make_one, maker, item, randomness, system
                )
            if isinstance(outcome, Made):
                answer_bytes += len(outcome.payload) + len(outcome.statement)
            else:
                answer_bytes += MAX_STATUS_BYTES
            if answer_bytes > self._max_answer_bytes:
                raise _too_large(self._max_answer_bytes)
            outcomes.append(outcome)
        return outcomes


def _make_one(maker: StatementMaker, item: Item, random: bytes, system: bool) -> Outcome:
    try:
        checked = check(item.draft, system=system)
        return maker.make(item.draft, checked, item.receipt_id, item.principal, random)
    except InvalidArgumentError as error:
        # Its frames hold the payload, parsed: they go, and only what is told stays.
        error.__context__ = None
        return error.with_traceback(None)


def _size_of(draft: Draft) -> int:
    content = draft.content
    if type(content) is Mutation:
        return len(content.previous_state) + len(content.new_state) + len(content.diff)
    return len(content.payload) if type(content) is Document else 0


def _too_large(limit: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        "BATCH_TOO_LARGE",
        f"items: come to more than {limit} bytes of statements and payloads; send fewer at once",
        metadata={"limit_bytes": str(limit)},
    )
