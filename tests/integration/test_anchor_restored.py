"""A log with a marker of a restore: held until its sinks confirm, and then as it was."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.restored import MARKER
from anchor_svc.servicer import AnchorServicer
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError
from anchor_svc.sinks.file import FileSink
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    StatusError,
    UnavailableError,
)
from tests.support.anchoring import LOG_UID, Ledger, TestKeys, eventually, running_log, submit


def sink(path: Path) -> FileSink:
    return FileSink.from_uri(path.as_uri())


def mark(data_dir: Path, *, accepted: bool = False) -> Path:
    path = data_dir / "logs" / LOG_UID.hex() / MARKER
    path.write_text(json.dumps({"v": "1", "takenAtNs": "1", "accepted": accepted}))
    return path


async def grown(url: str, data_dir: Path, ledger: Ledger, place: Path) -> None:
    """A log of that ledger, all of it anchored."""
    ledger.grow(20)
    async with running_log(url, data_dir, sinks=[sink(place)], background=True) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 21)


async def refused(log: OpenLog, ledger: Ledger, keys: TestKeys) -> StatusError:
    """Check that nothing is signed and no ledger is told how far it is; the reason why."""
    ledger.grow(1)
    with pytest.raises(StatusError) as caught:
        await submit(log, ledger, len(ledger.entries) - 1)
    request = pb.GetLedgerStateRequest(log="logs/-", ledger_uid=ledger.uid)
    logs: Any = SimpleNamespace(get=lambda uid: log)
    with pytest.raises(type(caught.value)):
        await AnchorServicer(logs, keys).GetLedgerState(request, None)
    ledger.entries.pop()
    assert log.state.signed_size == 21
    return caught.value


async def test_sinks_that_hold_no_more_let_it_go_on(database_url: str, tmp_path: Path) -> None:
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    marker = mark(tmp_path)
    places = [sink(tmp_path / "sink")]
    async with running_log(database_url, tmp_path, keys=keys, sinks=places) as log:
        error = await refused(log, ledger, keys)
        assert error.reason == "RESTORE_NOT_CONFIRMED"
        assert keys.signers[next(iter(keys.signers))].signed == []
        # Reading goes on.
        assert (await log.reader.inclusion(3, 0)).checkpoint.size == 21
        await log.restored.run()
        assert not marker.exists()
        ledger.last = ledger.hash_of(19)
        ledger.grow(1)
        assert (await submit(log, ledger, 20)).tree_size == 22
    # And a later start knows nothing of it.
    async with running_log(database_url, tmp_path, sinks=[sink(tmp_path / "sink")]) as log:
        assert log.state.held is None


async def test_a_sink_that_remembers_more_stops_it(database_url: str, tmp_path: Path) -> None:
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    latest = next((tmp_path / "sink").rglob("latest"))
    latest.write_bytes(latest.read_bytes().replace(b"\n21\n", b"\n22\n", 1))
    marker = mark(tmp_path, accepted=True)
    places = [sink(tmp_path / "sink"), sink(tmp_path / "another")]
    async with running_log(database_url, tmp_path, keys=keys, sinks=places, background=True) as log:
        await eventually(lambda: isinstance(log.state.held, FailedPreconditionError))
        error = await refused(log, ledger, keys)
        assert error.reason == "RESTORED_BEHIND"
        assert (tmp_path / "sink").as_uri() in error.message
        assert marker.exists()
        # Nothing was handed to anybody meanwhile.
        assert not (tmp_path / "another").exists()


@pytest.mark.parametrize("left", ["nothing", "an earlier one"])
async def test_a_sink_that_lost_what_it_took_confirms_nothing(
    database_url: str, tmp_path: Path, left: str
) -> None:
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    marker = mark(tmp_path)
    (tmp_path / "sink").rename(tmp_path / "moved")
    if left != "nothing":
        newest = max((tmp_path / "moved").rglob("*.checkpoint"))
        place = tmp_path / "sink" / newest.parent.name
        place.mkdir(parents=True)
        (place / f"{20:020}.checkpoint").write_bytes(newest.read_bytes())
    async with running_log(
        database_url, tmp_path, keys=keys, sinks=[sink(tmp_path / "sink")], background=True
    ) as log:
        await eventually(lambda: "place it was" in str(log.state.held))
        assert (await refused(log, ledger, keys)).reason == "RESTORE_NOT_CONFIRMED"
        # It is brought back, and asked again.
        shutil.rmtree(tmp_path / "sink", ignore_errors=True)
        (tmp_path / "moved").rename(tmp_path / "sink")
        async with asyncio.timeout(20):
            while marker.exists():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.01)
        await eventually(lambda: log.state.held is None)


async def test_a_marker_that_cannot_be_read_holds_all_the_same(
    database_url: str, tmp_path: Path
) -> None:
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    mark(tmp_path).write_text('{"accepted": tr')
    async with running_log(database_url, tmp_path, keys=keys) as log:
        assert isinstance(await refused(log, ledger, keys), UnavailableError)


class Cancelled(FileSink):
    """A sink of somebody's own, one of whose tasks is cancelled while it is asked first."""

    asked = 0

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        self.asked += 1
        if self.asked == 1:
            raise asyncio.CancelledError
        return await super().holds(checkpoint)


async def test_a_sink_that_ends_as_cancelled_is_asked_again(
    database_url: str, tmp_path: Path
) -> None:
    """A group takes a cancelled task for one that was to end: the log was held for ever."""
    ledger = Ledger()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    marker = mark(tmp_path)
    place = Cancelled((tmp_path / "sink").as_uri(), tmp_path / "sink")
    async with running_log(database_url, tmp_path, sinks=[place], background=True) as log:
        await eventually(lambda: log.state.held is None, 30)
        assert place.asked == 2
        assert not marker.exists()


async def test_a_sink_that_is_closed_while_it_is_asked_holds_up_nothing(
    database_url: str, tmp_path: Path
) -> None:
    """A policy drops a sink that hangs, and another question waits behind the first."""
    ledger, hung, go_on = Ledger(), threading.Event(), threading.Event()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    mark(tmp_path)
    extra = sink(tmp_path / "extra")

    def hang() -> None:
        hung.set()
        assert go_on.wait(60)

    places = [sink(tmp_path / "sink"), extra]
    async with running_log(database_url, tmp_path, sinks=places) as log:
        hanging = asyncio.ensure_future(extra._thread.run(hang))
        assert await asyncio.to_thread(hung.wait, 60)
        task = asyncio.ensure_future(log.restored.run())
        await eventually(lambda: not extra._thread._jobs.empty())
        await log.relays.use(places[:1])
        await eventually(lambda: log.state.held is None, 30)
        await task
        go_on.set()
        await hanging


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("can't start new thread")]
)
async def test_it_stays_held_until_the_marker_can_be_removed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What is raised there ended all that runs beside the RPCs, of every log."""
    ledger = Ledger()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    marker = mark(tmp_path)
    async with running_log(database_url, tmp_path, sinks=[sink(tmp_path / "sink")]) as log:
        forget, reasons = log.restored._forget, list[str]()

        def fail_once() -> None:
            if not reasons:
                reasons.append("tried")
                raise error
            reasons.append(str(log.state.held))
            forget()

        monkeypatch.setattr(log.restored, "_forget", fail_once)
        await log.restored.run()
        assert log.state.held is None
        assert not marker.exists()
        assert len(reasons) == 2
        if isinstance(error, OSError):
            assert f"{MARKER} cannot be removed: Input/output error" in reasons[1]


async def test_a_start_without_a_marker_asks_too(database_url: str, tmp_path: Path) -> None:
    """A snapshot of everything that was put back agrees with itself and leaves no marker."""
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    latest = next((tmp_path / "sink").rglob("latest"))
    latest.write_bytes(latest.read_bytes().replace(b"\n21\n", b"\n22\n", 1))
    places = [sink(tmp_path / "sink"), sink(tmp_path / "another")]
    async with running_log(database_url, tmp_path, keys=keys, sinks=places, background=True) as log:
        assert (await refused(log, ledger, keys)).reason == "RESTORED_BEHIND"
        assert keys.signers[next(iter(keys.signers))].signed == []
        assert not (tmp_path / "another").exists()


class Away(FileSink):
    """A sink that cannot be asked."""

    error: Exception = SinkError("away")

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        raise self.error


@pytest.mark.parametrize("error", [SinkError("away"), KeyError("a fault of somebody's own sink")])
async def test_a_start_without_a_marker_waits_for_no_sink(
    database_url: str, tmp_path: Path, error: Exception
) -> None:
    ledger = Ledger()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    ledger.grow(1)
    away = Away((tmp_path / "sink").as_uri(), tmp_path / "sink")
    away.error = error
    async with running_log(database_url, tmp_path, sinks=[away]) as log:
        assert log.state.held is None
        assert (await submit(log, ledger, 20)).tree_size == 22


class Returning(FileSink):
    """A sink that is away until it is said to be back."""

    back = False

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        if not self.back:
            raise SinkError("away")
        return await super().holds(checkpoint)


async def test_a_start_that_is_to_wait_is_held_until_a_sink_confirms(
    database_url: str, tmp_path: Path
) -> None:
    """No marker: a volume was put back, or nothing happened; one sink that answers is enough."""
    ledger, keys = Ledger(), TestKeys()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    one = Returning((tmp_path / "sink").as_uri(), tmp_path / "sink")
    other = Away((tmp_path / "other").as_uri(), tmp_path / "other")
    async with running_log(
        database_url, tmp_path, keys=keys, sinks=[one, other], wait_for_sinks=True, background=True
    ) as log:
        error = await refused(log, ledger, keys)
        assert error.reason == "START_NOT_CONFIRMED"
        assert "away" in error.message
        assert [signer.signed for signer in keys.signers.values()] == [[], [], []]
        assert (await log.reader.inclusion(3, 0)).checkpoint.size == 21
        one.back = True
        await eventually(lambda: log.state.held is None)
        ledger.last = ledger.hash_of(19)
        ledger.grow(1)
        assert (await submit(log, ledger, 20)).tree_size == 22


async def test_a_start_that_is_to_wait_asks_at_once(database_url: str, tmp_path: Path) -> None:
    """Nothing is held up where the sinks are there; so it is for a log that was never anchored."""
    ledger = Ledger()
    ledger.grow(20)
    places = [sink(tmp_path / "sink")]
    async with running_log(database_url, tmp_path, sinks=places, wait_for_sinks=True) as log:
        assert log.state.held is None
        await submit(log, ledger)
    for _ in range(2):
        async with running_log(
            database_url,
            tmp_path,
            sinks=[sink(tmp_path / "sink")],
            wait_for_sinks=True,
            background=True,
        ) as log:
            assert log.state.held is None
            await eventually(lambda log=log: log.state.anchored_size == 21)  # type: ignore[misc]


async def test_a_start_that_is_to_wait_goes_by_the_policies_of_tenants(
    database_url: str, tmp_path: Path
) -> None:
    """Something may be anchored for one tenant that the log's own sinks know nothing of."""
    ledger = Ledger()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    (tmp_path / "own").mkdir()
    text = f"sink own {(tmp_path / 'own').as_uri()}\nquorum own\n".encode()

    def start(**options: Any) -> Any:
        places = [sink(tmp_path / "sink")]
        return running_log(database_url, tmp_path, sinks=places, wait_for_sinks=True, **options)

    async with start() as log:
        await log.policies.set("tenants/acme", text, "operator")
    # It has taken nothing yet, and so cannot keep the log from handing it something.
    async with start(background=True) as log:
        await eventually(lambda: log.state.promise("tenants/acme").anchored_size == 21)
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own").mkdir()
    async with start() as log:
        assert getattr(log.state.held, "reason", "") == "START_NOT_CONFIRMED"


class Stamping:
    """A sink that takes everything and remembers nothing, as a timestamp authority."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        return Evidence("stamp", b"stamped")

    async def close(self) -> None:
        return None


async def test_a_policy_that_could_never_confirm_a_start_is_refused_where_starts_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anchor_svc.sinks._factories", {"stamp": Stamping})
    own = f"sink own {(tmp_path / 'own').as_uri()}\n"
    stamp = b"sink stamp stamp://a\nquorum stamp\n"
    both = f"{own}sink stamp stamp://a\ngroup both all own stamp\nquorum both\n".encode()
    either = f"{own}sink stamp stamp://a\ngroup one any own stamp\nquorum one\n".encode()

    def started(**options: Any) -> Any:
        places = [sink(tmp_path / "sink")]
        return running_log(f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=places, **options)

    ledger = Ledger()
    ledger.grow(20)
    async with started(wait_for_sinks=True, background=True) as log:
        for text in (stamp, either):
            with pytest.raises(InvalidArgumentError, match="wait_for_sinks") as caught:
                await log.policies.set("tenants/acme", text, "operator")
            assert [one.field for one in caught.value.violations] == ["text"]
        await log.policies.set("tenants/acme", both, "operator")
        await log.policies.set("", b"quorum none\n", "operator")
        await submit(log, ledger)
        await eventually(lambda: log.state.promise("tenants/acme").anchored_size == 21)
    # Where no start waits it may be set; one that waits then is held, and says why.
    async with started(wait_for_sinks=True) as log:
        assert log.state.held is None
    async with started() as log:
        await log.policies.set("tenants/acme", stamp, "operator")
    async with started(wait_for_sinks=True, background=True) as log:
        assert "by a policy" in getattr(log.state.held, "message", "")
        await log.policies.set("tenants/acme", b"", "operator")
        await eventually(lambda: log.state.held is None, 30)


async def test_a_later_marker_is_stricter(database_url: str, tmp_path: Path) -> None:
    """After a restore all must answer, whatever the setting says."""
    ledger = Ledger()
    await grown(database_url, tmp_path, ledger, tmp_path / "sink")
    mark(tmp_path)
    away = Away((tmp_path / "other").as_uri(), tmp_path / "other")
    async with running_log(
        database_url, tmp_path, sinks=[sink(tmp_path / "sink"), away], wait_for_sinks=True
    ) as log:
        with pytest.raises(UnavailableError, match="away") as caught:
            await log.restored._ask()
        assert caught.value.reason == "RESTORE_NOT_CONFIRMED"
