"""The work behind `monitor`: looks at a log again and again.

What is remembered from look to look is in `remembered`, what a look found in `alarms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger.errors import LogDamagedError, SplitViewError, VerificationError
from provledger.monitoring import LogView, SeenHead, check_present, newest_cosignature
from provledger.note import VerifierKey
from provledger.policy import Policy
from provledger_cli.alarms import SPLIT_VIEW, Alarm, Look
from provledger_cli.failures import CommandError
from provledger_cli.fetching import Fetcher, FetchError
from provledger_cli.logfiles import MAX_CHECKPOINT_BYTES, Files
from provledger_cli.receipt_files import receipts_of
from provledger_cli.remembered import Memory

_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the log beyond one history.

    others: files or URLs of checkpoints from elsewhere. max_age_s: None for any age. cosigners,
    policy: by whose word it is fresh. expect: files with receipts of ours.
    """

    others: Sequence[str] = ()
    max_age_s: int | None = None
    cosigners: Sequence[VerifierKey] = ()
    policy: Policy | None = None
    expect: Sequence[Path] = ()


class Monitor:
    """Looks at one log. clock: Unix seconds."""

    def __init__(
        self,
        view: LogView,
        files: Files,
        memory: Memory,
        wanted: Wanted,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._view = view
        self._files = files
        self._memory = memory
        self._wanted = wanted
        self._clock = clock
        self._sleep = sleep
        self._all_present = False

    def look(self) -> Look:
        """Look once. What cannot be had is in `unknown`; nothing is raised for it.

        Raises:
            CommandError: what is remembered, or a file that was named, cannot be used.
        """
        look = Look()
        remembered = self._memory.load()
        look.first = remembered is None
        try:
            head = self._fetch()
            look.size = head.size
            grown_at = self._join(head, remembered, look)
            if any(alarm.kind == SPLIT_VIEW for alarm in look.alarms):
                return look
            for other in self._wanted.others:
                self._compare(other, head, look)
            self._check_age(head, grown_at, look)
            self._check_present(head, look)
        except FetchError as error:
            look.unknown["log"] = str(error)
        except LogDamagedError as error:
            look.alarms.append(Alarm("tiles_damaged", error.message))
        except VerificationError as error:
            look.alarms.append(Alarm(error.check or "does_not_hold", error.message))
        return look

    def _fetch(self) -> SeenHead:
        signed = self._files.read("checkpoint")
        if signed is None:
            raise FetchError(f"{self._files.where} has no checkpoint")
        return self._view.open(signed)

    def _join(self, head: SeenHead, remembered: tuple[SeenHead, int] | None, look: Look) -> int:
        """Compare with what is remembered, and remember; when the log grew last (Unix seconds)."""
        now = int(self._clock())
        if remembered is None:
            self._view.tree(head, self._files)
            self._memory.save(head, now)
            look.held["consistency"] = "the first head seen; nothing to compare it with"
            return now
        last, grown_at = remembered
        try:
            self._check_joined(head, last, look)
        except LogDamagedError as error:
            if head.size >= last.size:
                raise
            message = f"shows a head of size {head.size}, having shown one of {last.size}"
            look.alarms.append(Alarm("rolled_back", f"{message}; {error.message}"))
            return grown_at
        if any(alarm.kind == SPLIT_VIEW for alarm in look.alarms):
            return grown_at
        look.held["consistency"] = f"with the head of size {last.size} seen before"
        if head.size > last.size:
            self._memory.save(head, now)
            return now
        if head.signed != last.signed and head.size == last.size:
            self._memory.save(head, grown_at)
        return grown_at

    def _check_joined(self, one: SeenHead, other: SeenHead, look: Look) -> None:
        try:
            self._view.check_joined(one, other, self._files)
        except SplitViewError as error:
            path = self._memory.keep_evidence(error.evidence)
            look.alarms.append(Alarm(SPLIT_VIEW, error.message, str(path)))

    def _compare(self, place: str, head: SeenHead, look: Look) -> None:
        """Compare with a checkpoint from elsewhere, which the log must have reached."""
        try:
            other = self._view.open(_read_checkpoint(place))
        except FetchError as error:
            look.unknown[f"checkpoint {place}"] = str(error)
            return
        except VerificationError as error:
            look.alarms.append(Alarm("checkpoint_signature", f"{place}: {error.message}"))
            return
        deadline_s = time.monotonic() + _PATIENCE_S
        while other.size > head.size and time.monotonic() < deadline_s:
            # It may have been published a moment ago, between our two requests.
            self._sleep(0.5)
            head = self._fetch()
        if other.size > head.size:
            try:
                self._check_joined(head, other, look)
            except LogDamagedError:
                pass
            else:
                if any(alarm.kind == SPLIT_VIEW for alarm in look.alarms):
                    return
            message = f"{place} is of size {other.size}, but the log shows {head.size} only"
            look.alarms.append(Alarm("behind", message))
            return
        before = len(look.alarms)
        self._check_joined(head, other, look)
        if len(look.alarms) == before:
            look.held[f"checkpoint {place}"] = f"of size {other.size}, of the same history"

    def _check_age(self, head: SeenHead, grown_at: int, look: Look) -> None:
        max_age_s = self._wanted.max_age_s
        if max_age_s is None:
            return
        now = int(self._clock())
        policy, cosigners = self._wanted.policy, self._wanted.cosigners
        if policy is not None:
            fresh = {
                name
                for name, at in policy.cosigned_by(head.signed).items()
                if now - at <= max_age_s
            }
            if not policy.met_by(fresh):
                names = ", ".join(sorted(fresh)) or "nobody"
                message = f"within {max_age_s} s it was cosigned by {names}, which is not enough"
                look.alarms.append(Alarm("stale", message))
            else:
                look.held["freshness"] = f"cosigned by {', '.join(sorted(fresh))}"
            return
        at = newest_cosignature(head.signed, cosigners) if cosigners else grown_at
        what = "cosigned" if cosigners else "grown"
        if at is None or now - at > max_age_s:
            since = "ever" if at is None else f"for {now - at} s"
            look.alarms.append(Alarm("stale", f"it was not {what} {since}"))
        else:
            look.held["freshness"] = f"{what} {max(0, now - at)} s ago or later"

    def _check_present(self, head: SeenHead, look: Look) -> None:
        if self._all_present or not self._wanted.expect:
            return
        tree = self._view.tree(head, self._files)
        found = missing = 0
        for path in self._wanted.expect:
            for receipt in receipts_of(path):
                if check_present(receipt, self._view.origin, tree):
                    found += 1
                else:
                    missing += 1
        if missing:
            look.unknown["entries"] = (
                f"{missing} receipts do not say where they are in this log, or are not in it yet"
            )
            return
        self._all_present = True
        look.held["entries"] = f"all {found} of ours are where their receipts say"


def _read_checkpoint(place: str) -> bytes:
    if place.startswith(("http://", "https://")):
        base, _, name = place.rpartition("/")
        fetcher = Fetcher(base)
        try:
            data = fetcher.get(name, MAX_CHECKPOINT_BYTES)
        finally:
            fetcher.close()
        if data is None:
            raise FetchError(f"{place} is not there")
        return data
    try:
        with Path(place).open("rb") as file:
            return file.read(MAX_CHECKPOINT_BYTES + 1)
    except OSError as error:
        raise CommandError(
            f"{place} cannot be read: {error.strerror}", hint="name a file or a URL"
        ) from error
