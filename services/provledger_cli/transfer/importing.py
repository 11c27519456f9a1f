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
import itertools
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client.answers import check_results
from provledger.client.batches import MAX_BATCH_ITEMS, MAX_DRAFT_BYTES
from provledger.client.calls import next_wait, waits
from provledger.errors import (
    IdentifierError,
    InputError,
    InvalidJSONError,
    StatusError,
)
from provledger.rpc.errors import as_status_error, is_retryable, status_from_pb
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError
from provledger_cli.transfer.gathering import Batch, Gathering, Item
from provledger_cli.transfer.lines import MAX_LINE_BYTES, MemberError, RequestIds, draft_from_line

R = TypeVar("R")

SHOWN_REJECTIONS: Final = 20

_DRAFT_PREFIX: Final = re.compile(r"^drafts\[\d+\]\.?")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that was not recorded, and why; `field` is "" where it is the whole line."""

    line: int
    field: str
    reason: str
    message: str


@dataclass(slots=True)
class Progress:
    """How far an import has got. `rejections` holds the first few only, by line.

    unanswered: numbers of the lines that were read and of which nothing is known yet.

    The thread that reads writes `lines`, the loop `appended` and `repeated`; what both write is
    written by the methods only, under the lock. `rejections` is replaced and never changed, so
    that whoever shows it while the thread reads on sees all of it.
    """

    lines: int = 0
    appended: int = 0
    repeated: int = 0
    rejected: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    unanswered: set[int] = field(default_factory=set)
    started_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

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
        with self._lock:
            self.rejected += 1
            kept = sorted([*self.rejections, rejection], key=lambda item: item.line)
            self.rejections = kept[:SHOWN_REJECTIONS]

    def await_answer(self, line: int) -> None:
        """Count a line among those of which nothing is known yet."""
        with self._lock:
            self.unanswered.add(line)

    def answered(self, line: int) -> None:
        """Count it among them no more."""
        with self._lock:
            self.unanswered.discard(line)

    def gaps(self) -> list[tuple[int, int]]:
        """The lines without an answer, as ranges of first and last."""
        with self._lock:
            unanswered = sorted(self.unanswered)
        ranges: list[tuple[int, int]] = []
        for line in unanswered:
            if ranges and ranges[-1][1] == line - 1:
                ranges[-1] = (ranges[-1][0], line)
            else:
                ranges.append((line, line))
        return ranges


async def run_import(
    remote: Remote,
    ledger: str,
    lines: Iterable[bytes],
    request_id: RequestIds,
    *,
    batch_items: int = MAX_BATCH_ITEMS,
    in_flight: int = 2,
    limit: int = 0,
    linger_s: float | None = None,
    progress: Progress,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Record the lines in a ledger; what happened is in `progress`.

    linger_s: for lines that come when they come, how long one waits for others. The lines are read
    in a thread, which at an early end is left to itself: the caller stops what they come from.

    Raises:
        CommandError: at a line without a request id, where `request_id` makes none.
        StatusError: where the service fails for good, or for longer than the policy's time. What
            was acknowledged stays; the same import again goes on.
    """
    pipeline = _Pipeline(remote, ledger, progress, on_progress)
    drafts = _drafts(itertools.islice(lines, limit or None), request_id, progress)
    gathering = Gathering(drafts, batch_items, linger_s)
    try:
        while (batch := await pipeline.attend(gathering.next())) is not None:
            await pipeline.make_room(in_flight - 1, batch)
            pipeline.send(batch)
            # Let it write to its connection before the next batch is read and parsed.
            await asyncio.sleep(0)
        await pipeline.make_room(0)
        gathering.check()
    finally:
        gathering.close()
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
        self._running: dict[asyncio.Task[StatusError | None], Batch] = {}

    def send(self, batch: Batch) -> None:
        """Start sending a batch, one attempt."""
        self._running[asyncio.create_task(self._attempt(batch))] = batch

    async def make_room(self, most: int, following: Batch | None = None) -> None:
        """Wait until at most `most` batches are on their way and `following` may leave.

        If one was not taken, wait for all, and send what was not taken again before returning.
        """
        not_taken: list[Batch] = []
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

    async def attend(self, waited_for: Coroutine[Any, Any, R]) -> R:
        """Wait for something else, and meanwhile send again what was not taken."""
        task = asyncio.create_task(waited_for)
        try:
            while not task.done():
                await asyncio.wait({task, *self._running}, return_when=asyncio.FIRST_COMPLETED)
                if any(sent.done() for sent in self._running):
                    await self.make_room(len(self._running))
            return task.result()
        finally:
            task.cancel()

    def _must_wait(self, following: Batch | None) -> bool:
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

    async def _insist(self, batch: Batch) -> None:
        """Send a batch until all of it is answered, or the policy's time is up."""
        policy = self._remote.policy
        delays = waits(policy)
        deadline_s = time.monotonic() + policy.timeout_s
        while (error := await self._attempt(batch)) is not None:
            wait_s = next_wait(error, delays)
            if wait_s is None or time.monotonic() + wait_s > deadline_s:
                raise error
            await asyncio.sleep(wait_s)

    async def _attempt(self, batch: Batch) -> StatusError | None:
        """Send a batch once. Leaves in it what was not taken, and returns why; None if all was.

        Raises:
            StatusError: where another attempt would not help; InternalError (BAD_RESPONSE) where
                the answer is not of these lines: of none of them is anything known then.
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
        check_results(response.results, request.drafts, self._ledger)
        again: list[Item] = []
        refusal: StatusError | None = None
        for item, result in zip(batch.items, response.results, strict=True):
            if result.HasField("receipt"):
                self._progress.answered(item[0])
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
                self._progress.answered(item[0])
                self._progress.reject(_service_rejection(item[0], outcome))
        batch.items = again
        self._on_progress()
        return refusal


def _drafts(lines: Iterable[bytes], request_id: RequestIds, progress: Progress) -> Iterator[Item]:
    """Parse lines; those that cannot be are counted and left out."""
    for number, line in enumerate(lines, start=1):
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
        progress.await_answer(number)
        yield number, draft


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
    reason = error.reason if isinstance(error, MemberError) else status.reason
    return Rejection(line, name, reason, str(getattr(error, "message", error)))


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
