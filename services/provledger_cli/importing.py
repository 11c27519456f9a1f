"""The work behind `import`: lines in, batches out, several in flight, nothing twice.

A few batches are on their way at once, so that reading, sending, witnessing and committing
overlap; memory holds no more than these.

Lines about the same resource are recorded in the order of the file: a batch does not leave while
another that shares a resource with it is on its way (a service takes or refuses a batch's lines
for now together). The rest comes in that order too unless a call is lost. When a batch is not
taken, the pipeline runs dry, and what was not taken is sent again, in order and one at a time,
before it goes on.

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
from provledger_cli.failures import CommandError
from provledger_cli.lines import MAX_LINE_BYTES, RequestIds, draft_from_line

SHOWN_REJECTIONS: Final = 20

_DRAFT_PREFIX: Final = re.compile(r"^drafts\[\d+\]\.?")
_Item = tuple[int, common_pb2.Draft]


@dataclass(slots=True)
class _Batch:
    """Lines by number, how large they were together at first, and what they are about."""

    items: list[_Item] = field(default_factory=list)
    size_bytes: int = 0
    resources: set[str] = field(default_factory=set)


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
    batch_items: int = MAX_BATCH_ITEMS,
    in_flight: int = 2,
    limit: int = 0,
    progress: Progress,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Record the lines in a ledger; what happened is in `progress`.

    Raises:
        CommandError: at a line without a request id, where `request_id` makes none.
        StatusError: where the service fails for good, or for longer than the policy's time. What
            was acknowledged stays; the same import again goes on.
    """
    pipeline = _Pipeline(remote, ledger, progress, on_progress)
    batches = _batches(_drafts(lines, request_id, limit, progress), batch_items)
    try:
        # Read and parsed in a thread: a pipe may be slow, and answers are due meanwhile.
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await pipeline.make_room(in_flight - 1, batch)
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

    def send(self, batch: _Batch) -> None:
        """Start sending a batch, one attempt."""
        self._running[asyncio.create_task(self._attempt(batch))] = batch

    async def make_room(self, most: int, following: _Batch | None = None) -> None:
        """Wait until at most `most` batches are on their way and `following` may leave.

        If one was not taken, wait for all, and send what was not taken again before returning.
        """
        not_taken: list[_Batch] = []
        while True:
            for task in [task for task in self._running if task.done()]:
                batch = self._running.pop(task)
                if task.result() is not None:
                    not_taken.append(batch)
            if not self._running or not (
                not_taken or len(self._running) > most or self._must_wait(following)
            ):
                break
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for batch in sorted(not_taken, key=lambda batch: batch.items[0][0]):
            await self._insist(batch)

    def _must_wait(self, following: _Batch | None) -> bool:
        return following is not None and any(
            # Smaller messages can overtake larger ones on their way.
            not following.resources.isdisjoint(batch.resources)
            or following.size_bytes * 2 < batch.size_bytes
            for batch in self._running.values()
        )

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
            if not draft.request_id:
                raise _no_request_id(number)
        except InputError as error:
            progress.reject(_own_rejection(number, error))
            continue
        yield number, draft


def _batches(items: Iterable[_Item], batch_items: int) -> Iterator[_Batch]:
    batch = _Batch()
    for item in items:
        item_bytes = item[1].ByteSize()
        full = len(batch.items) >= min(batch_items, MAX_BATCH_ITEMS)
        if batch.items and (full or batch.size_bytes + item_bytes > MAX_BATCH_BYTES):
            yield batch
            batch = _Batch()
        mutation = item[1].mutation
        batch.items.append(item)
        batch.size_bytes += item_bytes
        batch.resources.add(f"{mutation.resource_type}/{mutation.resource_id}")
    if batch.items:
        yield batch


def _no_request_id(line: int) -> CommandError:
    """Not a rejection: none of the lines to come would fare better."""
    return CommandError(
        f"line {line} has no request_id, and standard input or a pipe has no name to make one of: "
        "the lines of the next pipe would be taken for these, and be lost",
        hint="give --source NAME, the same whenever the same lines come again and another for "
        "other lines; or a request_id in each line",
    )


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
