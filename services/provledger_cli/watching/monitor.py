"""The work behind `monitor`: looks at a log again and again.

What is remembered from look to look is in `remembered`, what a look found in `alarms`; how old a
head may be is `freshness`'s to say, and what receipts of ours say of the log `our_receipts`'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger.errors import (
    LogDamagedError,
    ProvledgerError,
    SplitViewError,
    VerificationError,
)
from provledger.monitoring import LogView, SeenHead
from provledger.note import VerifierKey
from provledger.policy import Policy
from provledger_cli.failures import CommandError
from provledger_cli.tlog.fetching import FetchError
from provledger_cli.tlog.logfiles import Files, TimedFiles, read_checkpoint
from provledger_cli.watching.alarms import CONSISTENCY, ENTRIES, FRESHNESS, SPLIT_VIEW, Alarm, Look
from provledger_cli.watching.freshness import Freshness
from provledger_cli.watching.our_receipts import OurReceipts
from provledger_cli.watching.remembered import Memory

STEP_S: Final = 120.0
"""How long a step of a look asks for a log's files, such as what joins two heads; then they could
not be had."""

_PATIENCE_S: Final = 5.0
_TURNS: Final = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the log beyond one history.

    others: files or URLs of checkpoints from elsewhere. max_age_s: None for any age. cosigners,
    policy: who must have cosigned the head, and by whose word it is fresh; not both. expect: files
    with receipts of ours.
    """

    others: Sequence[str] = ()
    max_age_s: int | None = None
    cosigners: Sequence[VerifierKey] = ()
    policy: Policy | None = None
    expect: Sequence[Path] = ()

    @property
    def asks_cosigners(self) -> bool:
        """Whether it is fresh by the word of cosigners."""
        return bool(self.cosigners) or self.policy is not None


class Monitor:
    """Looks at one log.

    expect_s: how long a look asks for entries of ours, in seconds; the next one goes on with those
    that are left. clock: Unix seconds. monotonic: seconds since some moment.
    """

    def __init__(
        self,
        view: LogView,
        files: Files,
        memory: Memory,
        wanted: Wanted,
        *,
        expect_s: float = math.inf,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._view = view
        self._files = TimedFiles(files, monotonic)
        self._ours = OurReceipts(view, self._files, expect_s)
        self._memory = memory
        self._wanted = wanted
        self._freshness = Freshness(wanted.max_age_s, wanted.cosigners, wanted.policy, clock)
        self._clock = clock
        self._sleep = sleep
        self._began = False
        self._last: tuple[SeenHead, int] | None = None
        self._saved = True
        self._all_present = False
        # Files with receipts whose own checkpoints were compared.
        self._compared: set[Path] = set()

    def look(self, tell: Callable[[Alarm], None] | None = None) -> Look:
        """Look once. What cannot be had or read is in `unknown`; nothing is raised for it.

        What is known without a tile is told without one: a log that keeps its tiles to itself
        hides no alarm by that. And `tell` learns of each at once, however long the rest takes.

        Raises:
            CommandError, OSError: what is remembered cannot be used; by the first look alone.
        """
        if not self._began:
            self._last = self._memory.load()
            self._began = True
        look = Look(first=self._last is None, tell=tell)
        head = None
        with self._noting(look, CONSISTENCY, unknown="log"):
            head = self._fetch()
            look.shown, look.size = True, head.size
        # A cosigner's word stands in the head. How long the log did not grow is known at once if it
        # did not; that it did is to be checked.
        last = self._last
        grown = last is None or (head is not None and head.size > last[0].size)
        early = self._wanted.asks_cosigners or not grown
        if early:
            self._check_age(head, look)
        if head is not None:
            with self._noting(look, CONSISTENCY, unknown="log"):
                self._join(head, look)
        if not early and not look.split:
            self._check_age(head, look)
        if head is None:
            return look
        for other in self._wanted.others:
            if not look.split:
                head = self._compare(other, head, look)
        if CONSISTENCY in look.held and not look.split:
            self._check_present(head, look)
        return look

    @contextmanager
    def _noting(self, look: Look, check: str, *, unknown: str = "") -> Iterator[None]:
        """A step: what is raised in it is an alarm of this check, or what it could not tell."""
        self._files.allow(STEP_S)
        try:
            yield
        except SplitViewError as error:
            look.add(self._with_evidence(error, check))
        except LogDamagedError as error:
            look.add(Alarm("tiles_damaged", error.message, check))
        except VerificationError as error:
            look.add(Alarm(error.check or "does_not_hold", error.message, check))
        except (ProvledgerError, OSError) as error:
            look.unknown[unknown or check] = str(error)

    def _with_evidence(self, error: SplitViewError, check: str) -> Alarm:
        """The alarm of a split view, told whether or not its evidence can be saved."""
        try:
            path = self._memory.keep_evidence(error.evidence)
        except (ProvledgerError, OSError) as failed:
            message = f"{error.message}; the evidence could not be saved: {failed}"
            return Alarm(SPLIT_VIEW, message, check, evidence_text=error.evidence.decode())
        return Alarm(SPLIT_VIEW, error.message, check, evidence=str(path))

    def _fetch(self) -> SeenHead:
        signed = self._files.read("checkpoint")
        if signed is None:
            raise FetchError(f"{self._files.where} has no checkpoint")
        return self._view.open(signed)

    def _join(self, head: SeenHead, look: Look) -> None:
        """Compare with what is remembered, and remember."""
        now = int(self._clock())
        if self._last is None:
            self._view.tree(head, self._files)
            self._last, self._saved = (head, now), False
            look.held[CONSISTENCY] = "the first head seen; nothing to compare it with"
        else:
            last, grown_at = self._last
            if not self._is_joined(head, last, look):
                return
            look.held[CONSISTENCY] = f"with the head of size {last.size} seen before"
            if head.size > last.size:
                self._last, self._saved = (head, now), False
            elif head.size == last.size and head.signed != last.signed:
                self._last, self._saved = (head, grown_at), False
        self._save(look)

    def _is_joined(self, head: SeenHead, last: SeenHead, look: Look) -> bool:
        """Whether the log's head goes on from one that was seen; False: that it does not is told.

        Raises:
            ProvledgerError, OSError: they are two histories, or it cannot be told.
        """
        try:
            self._view.check_joined(head, last, self._files)
        except SplitViewError:
            raise
        except (ProvledgerError, OSError) as error:
            if head.size >= last.size:
                raise
            message = f"shows a head of size {head.size}, having shown one of {last.size}"
            look.add(Alarm("rolled_back", f"{message}; {error}", CONSISTENCY))
            return False
        return True

    def _save(self, look: Look) -> None:
        """Save what is remembered; what cannot be saved is not forgotten meanwhile.

        What another look, at work at the same time, has remembered is held against ours first, and
        stands if it is further.
        """
        for _ in range(_TURNS):
            if self._last is None or self._saved:
                return
            kept = self._try_save(*self._last, look)
            if kept is None or not self._heed(kept, self._last[0], look):
                return
        if not self._saved:
            look.unknown["state"] = f"other looks saved theirs before ours, {_TURNS} times"

    def _try_save(self, last: SeenHead, grown_at: int, look: Look) -> tuple[SeenHead, int] | None:
        """Save, unless another look has saved meanwhile: then what that one remembered."""
        kept = None
        with self._noting(look, "state"):
            kept = self._memory.save(last, grown_at)
            self._saved = kept is None
        return kept

    def _heed(self, kept: tuple[SeenHead, int], ours: SeenHead, look: Look) -> bool:
        """Go on with the further one of another look's head and ours; False: why not is told."""
        joined, held = False, look.held.pop(CONSISTENCY, None)
        with self._noting(look, CONSISTENCY, unknown="log"):
            joined = self._meets(ours, kept[0], look)
        if joined:
            self._memory.join(kept[0])
            if kept[0].size >= ours.size:
                self._last, self._saved = kept, True
            if held is not None:
                look.held[CONSISTENCY] = held
        return joined

    def _meets(self, ours: SeenHead, kept: SeenHead, look: Look) -> bool:
        """As `_is_joined`, of the log's head and one that another look saw, perhaps later."""
        try:
            self._view.check_joined(ours, kept, self._files)
        except SplitViewError:
            raise
        except (ProvledgerError, OSError):
            if ours.size >= kept.size:
                raise
            # Ours may be the older answer: whether the log went back is what it shows by now.
            self._files.allow(STEP_S)
            if not self._is_joined(self._fetch(), kept, look):
                return False
            self._view.check_joined(ours, kept, self._files)
        return True

    def _compare(self, place: str, head: SeenHead, look: Look) -> SeenHead:
        """Compare with a checkpoint from elsewhere, which the log must have reached.

        The head to go on with: it may have been published a moment ago, after our first request.
        """
        check = f"checkpoint {place}"
        with self._noting(look, check):
            try:
                other = self._view.open(read_checkpoint(place))
            except VerificationError as error:
                message = f"{place}: {error.message}"
                look.add(Alarm("checkpoint_signature", message, check))
                return head
            head = self._hold_against(other, place, check, head, look)
            if not look.split and other.size <= head.size:
                look.held[check] = f"of size {other.size}, of the same history"
        return head

    def _hold_against(
        self, other: SeenHead, what: str, check: str, head: SeenHead, look: Look
    ) -> SeenHead:
        """Hold the log's head against one that it signed; the head to go on with.

        Raises:
            ProvledgerError, OSError: they are not of one history, or it cannot be told.
        """
        head = self._reach(other.size, head, look)
        if look.split:
            return head
        behind = other.size > head.size
        if behind:
            message = f"{what} is of size {other.size}, but the log shows {head.size} only"
            look.add(Alarm("behind", message, check))
        try:
            self._view.check_joined(head, other, self._files)
        except SplitViewError:
            raise
        except (ProvledgerError, OSError):
            if not behind:
                raise
        return head

    def _reach(self, size: int, head: SeenHead, look: Look) -> SeenHead:
        """The log's head once it is of that size, or the last one within our patience."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while head.size < size and time.monotonic() < deadline_s:
            self._sleep(0.5)
            newer = None
            with self._noting(look, CONSISTENCY, unknown="log"):
                shown = self._fetch()
                if shown.signed != head.signed:
                    # With both: the one shown before need not have been joined with the remembered.
                    self._view.check_joined(shown, head, self._files)
                    self._join(shown, look)
                newer = shown
            if newer is None:
                break
            head = newer
            look.size = head.size
        return head

    def _check_age(self, head: SeenHead | None, look: Look) -> None:
        """How old the head is, or while there is none, the one that is remembered."""
        wanted = self._wanted
        if head is None and self._last is not None:
            head = self._last[0]
        with self._noting(look, FRESHNESS):
            if wanted.asks_cosigners:
                if head is not None:
                    self._freshness.check_cosigned(head, look)
            elif wanted.max_age_s is not None and self._last is not None:
                self._check_grown(*self._last, look)

    def _check_grown(self, last: SeenHead, grown_at: int, look: Look) -> None:
        now = int(self._clock())
        if grown_at > now:
            # Left as it is, it would hold for as long as the clock was ahead, grown or not.
            self._last, self._saved = (last, now), False
            # What another look saved is heeded once the head of this one is compared with ours.
            self._try_save(last, now, look)
            look.unknown[FRESHNESS] = (
                f"the log grew {grown_at - now} s from now, by the clock of then: it was ahead, or "
                "is behind now; how long the log has not grown is counted from now on"
            )
            return
        self._freshness.check_since(grown_at, "has", "grown", look)

    def _check_present(self, head: SeenHead, look: Look) -> None:
        if self._all_present or not self._wanted.expect:
            return
        found = missing = 0
        before = len(look.alarms)
        with self._noting(look, ENTRIES):
            for path in self._wanted.expect:
                try:
                    head = self._compare_own(path, head, look)
                    if look.split:
                        return
                    here, absent = self._ours.count_present(
                        path, self._view.tree(head, self._files)
                    )
                except CommandError as error:
                    look.unknown[ENTRIES] = error.message
                else:
                    found, missing = found + here, missing + absent
        if missing:
            look.unknown.setdefault(
                ENTRIES,
                f"{missing} receipts do not say where they are in this log, or are not in it yet",
            )
        if ENTRIES not in look.unknown and len(look.alarms) == before:
            self._all_present = True
            look.held[ENTRIES] = f"all {found} of ours are where their receipts say"

    def _compare_own(self, path: Path, head: SeenHead, look: Look) -> SeenHead:
        """Compare with every head that the log signed for receipts of ours, whose place it said."""
        if path in self._compared:
            return head
        own = self._ours.heads_of(path)
        for other in own[:1]:
            check = f"checkpoint of {path}"
            head = self._hold_against(other, f"the checkpoint in {path}", check, head, look)
        if look.split:
            return head
        for other in own[1:]:
            # What the log does not reach yet is told of the largest, and compared once it does.
            if other.size <= head.size:
                self._view.check_joined(head, other, self._files)
        if not own or own[0].size <= head.size:
            self._compared.add(path)
        return head
