"""The work behind `import`: lines in, batches out, several in flight, nothing twice.

A few batches are on their way at once, so that reading, sending, witnessing and committing
overlap; memory holds no more than these. They are sent in the order of the file. When one is not
taken, the pipeline runs dry and what was not taken is sent again, in order and one at a time,
before it goes on: so a restarted service gets the lines in order too. Only where a service turns
one batch away and takes the next can they come to stand the other way round; with one batch in
flight at a time, not even then.

Running an import again sends every line again, and the service knows each by its request id: that
is what makes it safe to stop anywhere, and needs no state here beyond one key.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client.batches import MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_DRAFT_BYTES
from provledger.client.calls import is_retryable, next_wait, waits
from provledger.errors import (
    IdentifierError,
    InputError,
    InvalidJSONError,
    StatusError,
)
from provledger.rpc.errors import as_status_error, status_from_pb
from provledger_cli.connect import Remote
from provledger_cli.lines import MAX_LINE_BYTES, RequestIds, draft_from_line

SHOWN_REJECTIONS: Final = 20

_DRAFT_PREFIX: Final = re.compile(r"^drafts\[\d+\]\.?")
_Item = tuple[int, common_pb2.Draft]


@dataclass(slots=True)
class _Batch:
    """Lines by number, and how large they were together at first."""

    items: list[_Item]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that was not recorded, and why; `field` is "" where it is the whole line."""

    line: int
    field: str
    reason: str
    message: str


@dataclass(slots=True)
class Progress:
    """How far an import has got. `rejections` holds the first few only, by line."""

    lines: int = 0
    appended: int = 0
    repeated: int = 0
    rejected: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def recorded(self) -> int:
        """Lines that have a receipt now."""
        return self.appended + self.repeated

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started_s

    def reject(self, rejection: Rejection) -> None:
        """Count a line that was refused, and keep it if it is among the first."""
        self.rejected += 1
        self.rejections.append(rejection)
        self.rejections.sort(key=lambda item: item.line)
        del self.rejections[SHOWN_REJECTIONS:]


async def run_import(
    remote: Remote,
    ledger: str,
    lines: Iterable[bytes],
    request_id: RequestIds,
    *,
    batch_items: int = 500,
    in_flight: int = 4,
    limit: int = 0,
    progress: Progress,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Record the lines in a ledger; what happened is in `progress`.

    Raises:
        StatusError: where the service fails for good, or for longer than the policy's time. What
            was acknowledged stays; the same import again goes on.
    """
    pipeline = _Pipeline(remote, ledger, progress, on_progress)
    batches = _batches(_drafts(lines, request_id, limit, progress), batch_items)
    try:
        # Read and parsed in a thread: a pipe may be slow, and answers are due meanwhile.
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            # On one connection a small message can overtake a large one.
            small = batch.size_bytes * 2 < pipeline.largest_bytes
            await pipeline.make_room(0 if small else in_flight - 1)
            pipeline.send(batch)
            # Let it write to its connection before the next batch is read and parsed.
            await asyncio.sleep(0)
        await pipeline.make_room(0)
    finally:
        await pipeline.close()


class _Pipeline:
    """Batches on their way, oldest first. Only one task may use it."""

    def __init__(
        self, remote: Remote, ledger: str, progress: Progress, on_progress: Callable[[], None]
    ) -> None:
        self._remote = remote
        self._ledger = ledger
        self._progress = progress
        self._on_progress = on_progress
        self._running: dict[asyncio.Task[StatusError | None], _Batch] = {}

    @property
    def largest_bytes(self) -> int:
        """Size of the largest batch on its way."""
        return max((batch.size_bytes for batch in self._running.values()), default=0)

    def send(self, batch: _Batch) -> None:
        """Start sending a batch, one attempt."""
        self._running[asyncio.create_task(self._attempt(batch))] = batch

    async def make_room(self, most: int) -> None:
        """Wait until no more than `most` batches are on their way.

        If one was not taken, wait for all, and send what was not taken again before returning.
        """
        not_taken: list[_Batch] = []
        while len(self._running) > (0 if not_taken else most):
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._running if task.done()]:
                batch = self._running.pop(task)
                if task.result() is not None:
                    not_taken.append(batch)
        for batch in sorted(not_taken, key=lambda batch: batch.items[0][0]):
            await self._insist(batch)

    async def close(self) -> None:
        """Give up what is still on its way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _insist(self, batch: _Batch) -> None:
        """Send a batch until all of it is answered, or the policy's time is up."""
        policy = self._remote.policy
        delays = waits(policy)
        deadline_s = time.monotonic() + policy.timeout_s
        while (error := await self._attempt(batch)) is not None:
            wait_s = next_wait(error, delays)
            if wait_s is None or time.monotonic() + wait_s > deadline_s:
                raise error
            await asyncio.sleep(wait_s)

    async def _attempt(self, batch: _Batch) -> StatusError | None:
        """Send a batch once. Leaves in it what was not taken, and returns why; None if all was.

        Raises:
            StatusError: where another attempt would not help.
        """
        request = ledger_pb2.AppendBatchRequest(
            ledger=self._ledger,
            drafts=[draft for _, draft in batch.items],
            view=common_pb2.RECEIPT_VIEW_BASIC,
        )
        try:
            response = await self._remote.append_batch(request)
        except StatusError as error:
            if is_retryable(error):
                return error
            raise
        again: list[_Item] = []
        refusal: StatusError | None = None
        for item, result in zip(batch.items, response.results, strict=True):
            if result.HasField("receipt"):
                if result.repeated_request:
                    self._progress.repeated += 1
                else:
                    self._progress.appended += 1
                continue
            outcome = status_from_pb(result.error)
            if is_retryable(outcome):
                again.append(item)
                refusal = outcome
            else:
                self._progress.reject(_service_rejection(item[0], outcome))
        batch.items = again
        self._on_progress()
        return refusal


def _drafts(
    lines: Iterable[bytes], request_id: RequestIds, limit: int, progress: Progress
) -> Iterator[_Item]:
    """Parse lines; those that cannot be are counted and left out."""
    for number, line in enumerate(lines, start=1):
        if limit and number > limit:
            return
        progress.lines = number
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise IdentifierError("line", f"is longer than {MAX_LINE_BYTES} bytes")
            draft = draft_from_line(line, request_id(number))
            if draft.ByteSize() > MAX_DRAFT_BYTES:
                raise IdentifierError("line", f"makes a draft of over {MAX_DRAFT_BYTES} bytes")
        except InputError as error:
            progress.reject(_own_rejection(number, error))
            continue
        yield number, draft


def _batches(items: Iterable[_Item], batch_items: int) -> Iterator[_Batch]:
    batch = _Batch([], 0)
    for item in items:
        item_bytes = item[1].ByteSize()
        full = len(batch.items) >= min(batch_items, MAX_BATCH_ITEMS)
        if batch.items and (full or batch.size_bytes + item_bytes > MAX_BATCH_BYTES):
            yield batch
            batch = _Batch([], 0)
        batch.items.append(item)
        batch.size_bytes += item_bytes
    if batch.items:
        yield batch


def _own_rejection(line: int, error: InputError) -> Rejection:
    status = as_status_error(error)
    if isinstance(error, InvalidJSONError):
        # The first member of the pointer is the member of the line.
        return Rejection(line, error.pointer.strip("/"), status.reason, str(error))
    name = getattr(error, "field", "")
    return Rejection(line, name, status.reason, str(getattr(error, "message", error)))


def _service_rejection(line: int, error: StatusError) -> Rejection:
    """Put a refusal in terms of the line: `drafts[3].mutation.new_state` is `new_state`."""
    name, message = "", error.message
    if error.violations:
        violation = error.violations[0]
        name = _DRAFT_PREFIX.sub("", violation.field)
        name = name.removeprefix("draft.").removeprefix("mutation.")
        name = {"actor.id": "actor_id"}.get(name, name)
        message = violation.description or message
    pointer = error.metadata.get("pointer", "")
    if pointer and pointer not in message:
        message = f"{message} at {pointer}"
    return Rejection(line, name, error.reason, message)
