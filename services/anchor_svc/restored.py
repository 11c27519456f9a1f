"""After a restore: nothing is signed until the sinks say that they do not remember more.

`provledger restore` leaves `restored.json` in the directory of each log. While it is there the log
is *held*: nothing is signed, no checkpoint, head, COSE receipt or key event, nothing is handed to
a sink, and a ledger that asks how far it is gets no answer, so that it does not append either.
Reads and proofs go on.

Each sink that remembers (`Remembering`) is asked what it holds of the log:

    more than we do           our copy is stale, or the sink wrong: RESTORED_BEHIND, for a person
                              who has it show a checkpoint of ours; a cosigner says a number only
    a head of ours, or older  it confirms; a cosigner by cosigning the head that it is asked
                              about, which it is handed then after all
    less than it once         it is not the place it was: it confirms nothing
    acknowledged, or nothing

At least one must confirm and none may be left open; whoever restored an installation without such
sinks has said so (`accepted`). Then the file is removed, durably, before anything is signed.

Without the file, each start asks as well, once: a snapshot that somebody put back leaves none. What
holds more then holds the log in the same way; what does not answer within a moment is left alone,
unless the settings say to wait (`wait_for_sinks`). Then the log is held until as many have
confirmed that nothing can have been anchored without them: without a policy, one.

Trust: the file is operational. Who removes it lets a stale log go on, and makes a second history
that sinks and cosigners will refuse; who makes one stops the log.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anchor_svc import files
from anchor_svc.opening import public_keys
from anchor_svc.sinks import (
    AnchorSink,
    PublishedCheckpoint,
    Remembering,
    SinkError,
    SinkIntegrityError,
    answer_of,
)
from anchor_svc.state import LogIdentity, LogState, SignedCheckpoint
from anchor_svc.storage import Storage
from provledger import logs
from provledger.errors import FailedPreconditionError, StatusError, UnavailableError
from provledger.retry import RetryPolicy

log = logs.get(__name__)

MARKER: Final = "restored.json"
RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.5, cap_s=15.0, budget_s=float("inf"))
LOOK_S: Final = 3.0
"""How long a start waits for what sinks remember."""
_NEXT: Final = "see docs/runbooks/stale-restore.md"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one sink said. acknowledged: the largest size the database says it took.

    holds: whether it holds a head that is ours and as large, None if it could not be asked. more:
    what it holds that we do not, "" if nothing.
    """

    sink: str
    acknowledged: int
    holds: bool | None
    more: str = ""
    why: str = ""


def decide(answers: Sequence[Answer], *, size: int, accepted: bool) -> None:
    """Return if the sinks confirm that nothing later than our head of `size` was anchored.

    Raises:
        FailedPreconditionError: RESTORED_BEHIND, a sink holds more.
        UnavailableError: RESTORE_NOT_CONFIRMED, nobody said so, or somebody has yet to answer.
    """
    _refuse_more(answers, size)
    for answer in answers:
        if answer.holds is None:
            raise _unconfirmed(f"{answer.sink} does not answer: {answer.why}", size)
        if not answer.holds and answer.acknowledged and not accepted:
            raise _unconfirmed(
                f"{answer.sink} once took a checkpoint of tree size {answer.acknowledged}, and "
                "holds nothing as large of this log: is it the place it was?",
                size,
            )
    if not accepted and not any(answer.holds for answer in answers):
        raise _unconfirmed("there is no sink that remembers anything", size)


def decide_start(
    answers: Sequence[Answer],
    missed: Callable[[Sequence[Answer]], bool],
    *,
    size: int,
    anchored: bool,
) -> None:
    """Return if nothing later than our head of `size` can have been anchored.

    missed: whether something can that these answers know nothing of. anchored: whether anything
    ever was. A sink that holds nothing and never took anything is as it should be, for a new one;
    but new ones alone do not confirm a log that others once held.

    Raises:
        FailedPreconditionError: RESTORED_BEHIND, a sink holds more.
        UnavailableError: START_NOT_CONFIRMED, too few have said so.
    """
    _refuse_more(answers, size)
    confirming = [answer for answer in answers if answer.holds]
    new = [answer for answer in answers if answer.holds is False and not answer.acknowledged]
    if not missed([*confirming, *new]) and (confirming or not anchored):
        return
    if answers and missed(answers):
        raise _not_started(
            "by a policy, a checkpoint can be anchored without any of the sinks that remember "
            "(directories, buckets, cosigners), so that they never confirm a start; set another "
            "policy",
            size,
        )
    others = "; ".join(
        f"{answer.sink}: {answer.why or _lack(answer)}" for answer in answers if not answer.holds
    )
    raise _not_started(others or "no sink was asked yet", size)


class Restored:
    """Holds one log after a restore. Belongs to one event loop."""

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        directory: Path,
        sinks: Callable[[], Sequence[AnchorSink]],
        *,
        consistency: Callable[[int, int], Awaitable[tuple[Sequence[bytes], int]]],
        deadline_s: float,
        wait: bool = False,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._path = directory / MARKER
        self._sinks = sinks
        self._consistency = consistency
        self._deadline_s = deadline_s
        self._accepted = False
        # Whether this is a start like any other, that waits all the same.
        self._waits = wait
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def open(self) -> None:
        """Hold the log if it was restored and nobody has confirmed it."""
        try:
            self._accepted = read_accepted(self._path)
        except FileNotFoundError:
            return
        self._waits = False
        self._state.held = _unconfirmed("no sink was asked yet", 0)
        log.warning("anchor.held", log=self._log.name, accepted=self._accepted)

    async def look(self) -> None:
        """At every start: hold the log if a sink that answers in time remembers more than we do.

        A snapshot of the whole machine that was put back leaves no marker. Sinks that are away
        hold up nobody here, unless we are to wait: they refuse later, when they are handed a head.
        """
        head = self._state.published or self._signed()
        if self._state.held is not None or head is None:
            return
        limit_s = min(self._deadline_s, LOOK_S)
        answers = await self._answers(head, limit_s)
        try:
            if self._waits:
                await self._decide_start(answers, head.size)
            else:
                _refuse_more(answers, head.size)
        except StatusError as error:
            self._hold(error)
            log.error("anchor.held", reason=error.reason, message=error.message,
                      log=self._log.name)  # fmt: skip

    async def run(self) -> None:
        """Ask until it is confirmed; returns at once for a log that is not held."""
        delays = RETRY.delays(self._rng)
        told = ""
        while self._state.held is not None:
            try:
                await self._ask()
            except StatusError as error:
                self._hold(error)
                if error.message != told:
                    told = error.message
                    log.error("anchor.held", reason=error.reason, message=told, log=self._log.name)
            except Exception as error:
                # Whatever it is, it is of this log: it stays held, and the others go on.
                log.error("anchor.confirm_failed", exc_info=error, log=self._log.name)
            else:
                continue
            await asyncio.sleep(next(delays, 15.0))

    async def _ask(self) -> None:
        head = self._state.published or self._signed()
        size = 0 if head is None else head.size
        answers = [] if head is None else await self._answers(head, self._deadline_s)
        if self._waits:
            await self._decide_start(answers, size)
        else:
            decide(answers, size=size, accepted=self._accepted)
        try:
            await asyncio.to_thread(self._forget)
        except OSError as error:
            # A later start would hold the log again, with heads that were signed since.
            hold = _not_started if self._waits else _unconfirmed
            raise hold(
                f"they do, but {MARKER} cannot be removed: {error.strerror}", size
            ) from error
        self._state.held = None
        log.warning(
            "anchor.confirmed",
            log=self._log.name,
            size=size,
            sinks=[answer.sink for answer in answers if answer.holds],
        )

    def _hold(self, error: StatusError) -> None:
        self._state.held = error
        # Once one was found to remember more, this is no start like any other.
        self._waits = self._waits and isinstance(error, UnavailableError)

    async def _decide_start(self, answers: Sequence[Answer], size: int) -> None:
        evidence = await self._storage.anchors(self._log.uid, after=None, sink="", limit=1)
        decide_start(answers, self._missed, size=size, anchored=bool(evidence))

    def _missed(self, answers: Sequence[Answer]) -> bool:
        """Whether something can be anchored, for the log or a tenant, without these sinks."""
        uris = {answer.sink for answer in answers}
        keys = public_keys(sink for sink in self._remembering() if sink.uri in uris)
        promises = self._state.promises.values()
        return any(promise.quorum.could_miss(uris, keys) for promise in promises)

    def _remembering(self) -> list[Remembering]:
        return [sink for sink in self._sinks() if isinstance(sink, Remembering)]

    async def _answers(self, head: SignedCheckpoint, deadline_s: float) -> Sequence[Answer]:
        sinks = self._remembering()
        acknowledged = await self._storage.cursors(self._log.uid, [sink.uri for sink in sinks])
        asked = (self._one(sink, head, acknowledged, deadline_s) for sink in sinks)
        return await asyncio.gather(*asked)

    async def _one(
        self,
        sink: Remembering,
        head: SignedCheckpoint,
        acknowledged: Mapping[str, int],
        deadline_s: float,
    ) -> Answer:
        async def prove(old_size: int) -> Sequence[bytes]:
            return (await self._consistency(old_size, head.size))[0]

        size = acknowledged.get(sink.uri, 0)
        checkpoint = PublishedCheckpoint(
            self._log.origin,
            head.size,
            head.root,
            head.note,
            known_size=size,
            prove=prove,
            hasher=self._log.hasher,
        )
        try:
            async with asyncio.timeout(deadline_s):
                return Answer(sink.uri, size, await answer_of(sink.holds(checkpoint)))
        except SinkIntegrityError as error:
            return Answer(sink.uri, size, None, more=str(error))
        except SinkError as error:
            return Answer(sink.uri, size, None, why=str(error))
        except TimeoutError:
            return Answer(sink.uri, size, None, why=f"not within {deadline_s} s")
        except Exception as error:  # sinks are not all ours
            log.warning("anchor.sink_failed", exc_info=error, sink=sink.uri)
            return Answer(sink.uri, size, None, why=type(error).__name__)

    def _signed(self) -> SignedCheckpoint | None:
        view = self._state.view
        return None if view is None else SignedCheckpoint(view.size, view.root, view.note)

    def _forget(self) -> None:
        self._path.unlink(missing_ok=True)
        files.sync_dir(self._path.parent)


def read_accepted(path: Path) -> bool:
    """Whether whoever restored has accepted that no sink can confirm it.

    A marker that cannot be read holds the log all the same. Raises FileNotFoundError.
    """
    data = path.read_bytes()
    try:
        value: Any = json.loads(data)
        return value["accepted"] is True
    except (ValueError, KeyError, TypeError):
        return False


def _refuse_more(answers: Sequence[Answer], size: int) -> None:
    for answer in answers:
        if answer.more:
            raise FailedPreconditionError(
                "RESTORED_BEHIND",
                f"this log is at tree size {size}, and {answer.sink} says that it remembers more: "
                f"{answer.more}. Nothing is signed. Have it show a checkpoint with this log's "
                f"signature; if there is one, restore a newer copy: {_NEXT}",
                metadata={"sink": answer.sink, "treeSize": str(size)},
            )


def _lack(answer: Answer) -> str:
    took = "that it once took" if answer.acknowledged else "and never took anything"
    return f"holds nothing of this log {took}"


def _not_started(why: str, size: int) -> UnavailableError:
    return UnavailableError(
        "START_NOT_CONFIRMED",
        "this log is to wait at each start until its sinks confirm that they hold nothing later, "
        f"and signs nothing before (wait_for_sinks): {why}",
        metadata={"treeSize": str(size)},
        retry_delay_s=2.0,
    )


def _unconfirmed(why: str, size: int) -> UnavailableError:
    return UnavailableError(
        "RESTORE_NOT_CONFIRMED",
        "this log was restored from a backup, or a sink said that it remembers more, and it signs "
        f"nothing until its sinks confirm that they hold nothing later: {why} ({_NEXT})",
        metadata={"treeSize": str(size)},
        retry_delay_s=2.0,
    )
