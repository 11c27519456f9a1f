"""Logs of ours that were published, and that the database has no row of.

A copy of the database that is older than a tenant's own log has not a word of it: no count includes
its ledgers, and nothing holds it (`restored`). Its ledgers would be denied, and made a second time.
But what was published is still there, in

    our directory or bucket   logs/<uid>/ with a checkpoint                   DATABASE_BEHIND
    a sink that is `Listing`  a checkpoint of an origin below ours, signed    RESTORED_BEHIND
                              by a key of ours, active or draining

While a lost log is known, nobody is told how many ledgers there are, and no log is made; those that
are there go on. Which logs these are is said in listings of logs, and how many in a metric. Whoever
knows that nothing is missed says so by a file (`logdirs.GIVEN_UP`).

Directory and bucket are looked at before anything else (`publishedlogs`). Sinks are asked at each
start, and one that does not answer within a moment holds up nothing, but is asked until it does.
Until they have answered, nothing is counted or made either after a restore, and where the settings
say to wait (`wait_for_sinks`); nor until it is known which of our keys signed what a sink holds of
a log that may be lost. Logs lose their marker of a restore one by one. So a start that finds one
leaves another, `restored.json` in `data_dir`, which goes once all sinks have been asked and know of
no lost log.

Trust: a sink that leaves something out hides a loss, as with `restored`. What is not signed by one
of our keys is another installation's, or somebody's who writes to the sink: it holds up nothing. A
sink that cannot be listed (a cosigner, a timestamp authority) says nothing of all this.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from anchor_svc import files
from anchor_svc.opening import close_sinks
from anchor_svc.publishedlogs import Lost, PublishedLogs
from anchor_svc.restored import LOOK_S, MARKER, RETRY, read_accepted
from anchor_svc.sinks import AnchorSink, Listing, SinkError, answer_of
from anchor_svc.storage import LogRow, Storage
from provledger import checkpoint as checkpoints
from provledger import logdirs, logs, telemetry
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    KeyFormatError,
    NoteError,
    StatusError,
    UnavailableError,
)
from provledger.keyset import KeyPurpose, KeySet
from provledger.rpc.errors import copied
from provledger.s3 import Bucket

log = logs.get(__name__)

_lost_logs = telemetry.gauge(
    "anchor.lost_logs", doc="Logs that were published and are not in the database, as far as known"
)

_NEXT: Final = "see docs/runbooks/stale-restore.md"


class View(Protocol):
    """The part of what it said."""

    @property
    def keys(self) -> KeySet:
        """The keys that are active or draining."""
        ...


class Keys(Protocol):
    """The part of `provledger.keyring.KeyRing` that is asked here."""

    @property
    def view(self) -> View:
        """What the keys service last said."""
        ...

    async def changed(self, timeout_s: float) -> None:
        """Wait until it says something, at most so long."""
        ...


class LostLogs:
    """Looks for logs without a row. Belongs to one event loop.

    bucket: where tiles are, if not in `data_dir`. sinks: for this alone; `close` closes them.
    could_miss: whether something can be anchored without these sinks, by their URIs.
    """

    def __init__(
        self,
        storage: Storage,
        data_dir: Path,
        origin_prefix: str,
        keys: Keys,
        sinks: Iterable[AnchorSink],
        *,
        bucket: Bucket | None,
        could_miss: Callable[[Collection[str]], bool],
        deadline_s: float,
        wait: bool,
    ) -> None:
        self._storage = storage
        self._logs = data_dir / "logs"
        self._marker = data_dir / MARKER
        self._prefixes = {origin_prefix}
        self._keys = keys
        self._all_sinks = list(sinks)
        self._sinks = [sink for sink in self._all_sinks if isinstance(sink, Listing)]
        self._published = PublishedLogs(self._logs, bucket)
        self._could_miss = could_miss
        self._deadline_s = deadline_s
        self._wait = wait
        self._restored = False
        self._accepted = False
        self._error: StatusError | None = None
        self._found: dict[bytes, Lost] = {}
        self._looked = False
        self._answered: set[str] = set()
        self._told: dict[str, str] = {}
        # Sinks that have named a log which may be lost, before we knew our keys.
        self._unverified: set[str] = set()
        # Origins of other installations, which were told of.
        self._others: set[str] = set()
        # Sinks and origins of which it was told that they cannot be read.
        self._unread: set[tuple[str, str]] = set()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def check(self) -> None:
        """Raise why ledgers may be missing, if that is so.

        Raises:
            DataLossError: DATABASE_BEHIND, a log was published here and has no row.
            FailedPreconditionError: RESTORED_BEHIND, so a sink says.
            UnavailableError: RESTORE_NOT_CONFIRMED, START_NOT_CONFIRMED, sinks have yet to answer.
        """
        if self._error is not None:
            raise copied(self._error)

    def found(self) -> list[Lost]:
        """Return the lost logs that are known, in order of uid."""
        return [self._found[uid] for uid in sorted(self._found)]

    async def find(self) -> None:
        """Look into directory and bucket, and for markers of a restore.

        Raises StatusError while the bucket or the database cannot be used, OSError for the disk.
        """
        named = await asyncio.to_thread(self._published.named)
        # After what there is: a log gets its row first.
        rows = await self._storage.logs()
        known = {row.log_uid for row in rows}
        self._prefixes |= {row.origin.rpartition("/")[0] for row in rows}
        found = await asyncio.to_thread(self._published.without_row, named, known, self._origins)
        await asyncio.to_thread(self._look_for_marker, known)
        if found:
            self._error = _behind()
        self._keep(found)

    async def look(self) -> None:
        """Ask the sinks, once; those that answer within a moment, unless they must."""
        if self._error is None and not self._looked:
            await self._ask(min(self._deadline_s, LOOK_S))

    async def settle(self) -> None:
        """Ask the sinks, those that must answer until they have; for what is made at a start.

        Raises as `check`, but for UnavailableError.
        """
        await self.look()
        await self._ask_while(lambda: isinstance(self._error, UnavailableError))
        self.check()

    async def run(self) -> None:
        """Ask those that have not answered until they have, or a log is known to be lost."""
        await self._ask_while(self._open)
        await self.close()

    async def close(self) -> None:
        """Close the sinks."""
        await close_sinks(self._all_sinks)

    def _origins(self, uid: bytes) -> list[str]:
        return [f"{prefix}/{uid.hex()}" for prefix in self._prefixes]

    def _look_for_marker(self, known: Iterable[bytes]) -> None:
        if not os.path.lexists(self._marker):
            data = next(self._markers(known), None)
            if data is None:
                return
            files.write_atomic(self._marker, data, self._marker.parent)
        self._restored = True
        try:
            self._accepted = read_accepted(self._marker)
        except OSError as error:
            log.warning("anchor.marker_not_read", exc_info=error, path=str(self._marker))

    def _markers(self, known: Iterable[bytes]) -> Iterator[bytes]:
        """What markers of a restore say, of logs with a row: elsewhere nobody ever takes one away.

        A log whose marker cannot be read is not opened either; a restore has marked all of them.
        """
        for uid in sorted(known):
            path = self._logs / uid.hex() / MARKER
            try:
                yield path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                log.warning("anchor.marker_not_read", exc_info=error, path=str(path))

    # --- sinks

    def _unanswered(self) -> list[Listing]:
        return [sink for sink in self._sinks if sink.uri not in self._answered]

    def _open(self) -> bool:
        """Whether a sink may still change what is known."""
        if self._error is None:
            return bool(self._unanswered())
        return isinstance(self._error, UnavailableError)

    async def _ask_while(self, waiting: Callable[[], bool]) -> None:
        delays = RETRY.delays(self._rng)
        while waiting():
            await asyncio.sleep(next(delays, RETRY.cap_s))
            await self._ask(self._deadline_s)

    async def _ask(self, limit_s: float) -> None:
        """Ask the sinks that have not answered."""
        self._looked = True
        asked = self._unanswered()
        found: list[Lost] = []
        answers = await asyncio.gather(*(self._one(sink, limit_s, found) for sink in asked))
        away = {sink.uri: why for sink, why in zip(asked, answers, strict=True) if why}
        self._answered |= {sink.uri for sink in asked} - away.keys()
        self._unverified &= away.keys()
        self._keep(found)
        if found:
            self._error = _sink_remembers()
            return
        self._error = self._unconfirmed(away)
        if self._error is not None:
            if away != self._told:
                self._told = away
                log.error("anchor.lost_logs_not_known", reason=self._error.reason, sinks=away)
        elif self._restored:
            await asyncio.to_thread(self._forget)

    async def _one(self, sink: Listing, limit_s: float, found: list[Lost]) -> str:
        """Add the lost logs that a sink holds; why there may be more, "" if there are none."""
        try:
            async with asyncio.timeout(limit_s):
                await self._look_into(sink, found)
                return ""
        except SinkError as error:
            return str(error)
        except TimeoutError:
            if sink.uri in self._unverified:
                return "it holds logs that are not in the database, and our keys are not known yet"
            return f"not within {limit_s} s"
        except Exception as error:  # sinks are not all ours; or the database is away
            log.warning("anchor.sink_failed", exc_info=error, sink=sink.uri)
            return type(error).__name__

    async def _look_into(self, sink: Listing, found: list[Lost]) -> None:
        """Raises SinkError: there may be more, that cannot be told."""
        held: set[str] = set()
        for prefix in sorted(self._prefixes):
            held.update(await answer_of(sink.origins(f"{prefix}/")))
        # After what it holds: a log gets its row first.
        rows = await self._storage.logs()
        known = {row.origin for row in rows}
        if not held & known and not self._accepted and await self._took(sink, rows):
            raise SinkError("it once took checkpoints, and holds none: is it the place it was?")
        unread = 0
        for origin in sorted(held - known - self._others):
            uid = logdirs.parse_uid(origin.rpartition("/")[2])
            ours = uid is not None and origin in self._origins(uid)
            if uid is None or not ours or logdirs.is_given_up(self._logs, uid):
                continue
            try:
                size = await self._held_size(sink, origin)
            except SinkError as error:
                # Those behind it are told all the same.
                unread += 1
                self._tell_unread(sink, origin, error)
                continue
            if size:
                found.append(Lost(uid, sink.uri, size, "RESTORED_BEHIND"))
        if unread:
            # Not which: clients hear this, and logs are of tenants.
            raise SinkError(
                f"what it holds of logs that are not in the database ({unread}) cannot be read; "
                "the anchor's log says of which (anchor.log_not_read)"
            )

    async def _held_size(self, sink: Listing, origin: str) -> int:
        """The tree size of what a sink holds of a log of ours; 0 if it is not, or nothing is.

        Raises SinkError if that cannot be told.
        """
        data = await answer_of(sink.checkpoint_of(origin))
        size = 0 if data is None else await self._verified_size(data, origin, sink)
        if data is not None and not size:
            self._others.add(origin)
            log.info("anchor.log_of_others", origin=origin, sink=sink.uri)
        return size

    def _tell_unread(self, sink: Listing, origin: str, error: SinkError) -> None:
        if (sink.uri, origin) not in self._unread:
            self._unread.add((sink.uri, origin))
            log.warning("anchor.log_not_read", origin=origin, sink=sink.uri, message=str(error))

    async def _took(self, sink: Listing, rows: Sequence[LogRow]) -> bool:
        for row in rows:
            if any((await self._storage.cursors(row.log_uid, [sink.uri])).values()):
                return True
        return False

    async def _verified_size(self, data: bytes, origin: str, sink: Listing) -> int:
        """The tree size of a checkpoint that one of our keys has signed; 0 of any other.

        Waits until the keys service has said which keys these are.
        """
        while not (keys := self._keys.view.keys.for_purpose(KeyPurpose.CHECKPOINT)):
            self._unverified.add(sink.uri)
            await self._keys.changed(1.0)
        try:
            vkeys = [key.vkey(origin) for key in keys]
            return checkpoints.open_checkpoint(data, vkeys, origin)[0].size
        except (NoteError, KeyFormatError):
            return 0

    def _unconfirmed(self, away: dict[str, str]) -> UnavailableError | None:
        """What holds up, while sinks are away that must answer."""
        if not away or not (self._restored or self._unverified or self._waits()):
            return None
        why = "; ".join(f"{uri}: {what}" for uri, what in away.items())
        return UnavailableError(
            "RESTORE_NOT_CONFIRMED" if self._restored else "START_NOT_CONFIRMED",
            "sinks have yet to say whether they hold a log that was made after the copy which was "
            f"put back; no log is made before, and no ledger said not to be there: {why} ({_NEXT})",
            retry_delay_s=2.0,
        )

    def _waits(self) -> bool:
        """Whether the settings say to wait for sinks that have not answered."""
        if not self._wait or self._could_miss([sink.uri for sink in self._sinks]):
            return False  # in the second case, none could ever tell
        return self._could_miss(self._answered)

    def _keep(self, found: Iterable[Lost]) -> None:
        for lost in found:
            self._found.setdefault(lost.uid, lost)
            _tell(lost)
        _lost_logs.set(len(self._found))

    def _forget(self) -> None:
        try:
            self._marker.unlink(missing_ok=True)
            files.sync_dir(self._marker.parent)
        except OSError as error:
            # A later start asks them all again.
            log.warning("anchor.marker_stays", exc_info=error)


def _tell(lost: Lost) -> None:
    log.error(
        "anchor.log_lost",
        reason=lost.reason,
        log=f"logs/{lost.uid.hex()}",
        where=lost.where,
        tree_size=lost.size,
        message="it was published, and the database has no row of it, so that it is older. No "
        "log is made, and no ledger said not to be there. Restore the newer database; if there "
        f"is none, or the log is not of this installation, {_NEXT}",
    )


def _behind() -> DataLossError:
    return DataLossError(
        "DATABASE_BEHIND",
        "a log was published that is not in the anchor's database, which is older than that: no "
        "log is made, and no ledger is said not to be there; the anchor's log says which "
        f"(anchor.log_lost). Restore the newer database, or {_NEXT}",
    )


def _sink_remembers() -> FailedPreconditionError:
    return FailedPreconditionError(
        "RESTORED_BEHIND",
        "a sink holds a checkpoint of a log that is not in the anchor's database, which is older "
        "than that: no log is made, and no ledger is said not to be there; the anchor's log says "
        f"which (anchor.log_lost). Restore a newer copy, or {_NEXT}",
    )
