"""A tenant's own log was made after the copy of the database that was put back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc import lostlogs, restored
from anchor_svc.app import build
from anchor_svc.restored import MARKER
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import DataLossError, FailedPreconditionError, StatusError, UnavailableError
from provledger.logdirs import GIVEN_UP
from provledger.retry import RetryPolicy
from provledger.rpc.channel import call
from tests.integration.test_anchor_service import (
    ANY,
    BLAKE3,
    Anchor,
    anchor_on,
    keys_service,
    settings,
)
from tests.integration.test_own_logs import anchor_with
from tests.support.anchoring import Ledger, eventually
from tests.support.metered import metered

pytestmark = pytest.mark.timeout(120)

CREATE = pb.CreateLogRequest(tenant="tenants/acme", suite=BLAKE3)
COUNT = pb.GetLogRequest(name=ANY, count_ledgers=True)
DATABASE = "anchor.sqlite3"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks that did not answer are asked again at once."""
    for module in (lostlogs, restored):
        monkeypatch.setattr(module, "RETRY", RetryPolicy(1_000_000, 0.01, 0.05, float("inf")))


async def anchored(anchor: Anchor, name: str, size: int) -> None:
    async with asyncio.timeout(30):
        while True:
            log = (await anchor.ask("GetLog", pb.GetLogRequest(name=name))).log
            if log.anchored_size >= size:
                return
            await asyncio.sleep(0.01)


def databases(directory: Path) -> list[Path]:
    return list(directory.glob(f"{DATABASE}*"))


class Lost:
    """An installation whose database went back to before a tenant's log was made; `uid` is its."""

    def __init__(self, keys: str, directory: Path, uid: str, shared: Ledger) -> None:
        self.keys = keys
        self.directory = directory
        self.uid = uid
        self.shared = shared

    @property
    def log_dir(self) -> Path:
        return self.directory / "anchor" / "logs" / self.uid

    def start(self, **changes: Any) -> Any:
        return anchor_with(self.keys, self.directory, **changes)

    def mark(self) -> None:
        """Leave what `provledger restore` does."""
        for log in (self.directory / "anchor" / "logs").iterdir():
            value = {"v": "1", "takenAtNs": "1", "accepted": False}
            (log / MARKER).write_text(json.dumps(value))

    def give_up(self) -> None:
        self.log_dir.mkdir(exist_ok=True)
        (self.log_dir / GIVEN_UP).touch()


def put_databases(source: Path, directory: Path) -> None:
    """Have the files of one database there, and none of another."""
    for path in databases(directory):
        path.unlink()
    for path in databases(source):
        shutil.copy2(path, directory / path.name)


@asynccontextmanager
async def lost_log(directory: Path, *, put_back: Sequence[str] = ()) -> AsyncIterator[Lost]:
    """put_back: what else knows nothing of the log any more, `tiles` or `sink`."""
    shared, own = Ledger("shared"), Ledger("own")
    shared.grow(2)
    own.grow(3)
    async with keys_service(directory) as keys:
        async with anchor_with(keys, directory) as anchor:
            await anchor.submit(shared)
            await anchored(anchor, ANY, 3)
        (directory / "copy").mkdir()
        put_databases(directory, directory / "copy")
        async with anchor_with(keys, directory) as anchor:
            name = (await anchor.ask("CreateLog", CREATE)).log.name
            await anchor.submit(own, log=name)
            await anchored(anchor, name, 4)
        (directory / "newer").mkdir()
        put_databases(directory, directory / "newer")
        put_databases(directory / "copy", directory)
        lost = Lost(keys, directory, name.removeprefix("logs/"), shared)
        if "tiles" in put_back:
            shutil.rmtree(lost.log_dir)
        if "sink" in put_back:
            (there,) = (directory / "sink").glob(f"*{lost.uid}")
            shutil.rmtree(there)
        yield lost


def spoil(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make it a bad sector."""

    def hurt(real: Any) -> Any:
        def call(file: Any, *args: Any, **kwargs: Any) -> Any:
            if file == path:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(file, *args, **kwargs)

        return call

    for module, function in [(os, "stat"), (os, "open"), (io, "open")]:
        monkeypatch.setattr(module, function, hurt(getattr(module, function)))


async def once(anchor: Anchor, method: str, request: Any) -> Any:
    """The answer to one attempt, which may be that something has yet to be known."""
    rpc = getattr(anchor.stub, method)
    return await call(rpc, request, timeout_s=30.0, idempotent=False)


async def refused(anchor: Anchor) -> StatusError:
    """Check that nobody hears how many ledgers there are, and no log is made; the reason why."""
    with pytest.raises(StatusError) as counting:
        await once(anchor, "GetLog", COUNT)
    with pytest.raises(StatusError) as making:
        await once(anchor, "CreateLog", CREATE)
    # A sink may have been asked in between.
    assert making.value.reason in (counting.value.reason, "RESTORED_BEHIND")
    return counting.value


async def found(anchor: Anchor) -> None:
    """Wait until a sink has been asked, and is known to hold more."""
    async with asyncio.timeout(60):
        while (await refused(anchor)).reason != "RESTORED_BEHIND":  # noqa: ASYNC110 - over gRPC
            await asyncio.sleep(0.05)


async def counted(anchor: Anchor) -> int:
    """How many ledgers there are, once sinks have confirmed that they know of no more."""
    async with asyncio.timeout(60):
        while True:
            try:
                return int((await once(anchor, "GetLog", COUNT)).ledger_count)
            except UnavailableError:
                await asyncio.sleep(0.05)


async def no_longer_counted(anchor: Anchor) -> None:
    async with asyncio.timeout(60):
        with contextlib.suppress(FailedPreconditionError):
            while await once(anchor, "GetLog", COUNT):  # noqa: ASYNC110 - over gRPC
                await asyncio.sleep(0.05)


@asynccontextmanager
async def passing_on(listener: socket.socket, endpoint: str) -> AsyncIterator[None]:
    """Answer connections, which were refused before, by those to another endpoint."""
    host, port = endpoint.split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_server(accept, sock=listener):
        yield


async def let_go(lost: Lost, **changes: Any) -> None:
    """Check that ledgers are counted and logs made, as where nothing is lost."""
    async with lost.start(**changes) as anchor:
        assert await counted(anchor) == 1
        assert (await anchor.ask("CreateLog", CREATE)).created


async def test_log_that_was_published_and_has_no_row_is_not_denied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lost_log(tmp_path, put_back=["sink"]) as lost:
        async with lost.start() as anchor:
            error = await refused(anchor)
            assert isinstance(error, DataLossError)
            assert error.reason == "DATABASE_BEHIND"
            assert lost.uid not in error.message, "another tenant's"
            # The others go on.
            lost.shared.grow(1)
            assert (await anchor.submit(lost.shared, 2)).tree_size == 4
        (told,) = [each for each in caplog.records if each.getMessage() == "anchor.log_lost"]
        assert f"logs/{lost.uid}" in str(vars(told))
        lost.give_up()
        await let_go(lost)


@pytest.mark.parametrize(
    ("put_back", "reason"), [("sink", "DATABASE_BEHIND"), ("tiles", "RESTORED_BEHIND")]
)
async def test_lost_log_is_listed_and_counted(tmp_path: Path, put_back: str, reason: str) -> None:
    """So that whoever does not read the anchor's log hears of it, and which one it is."""
    first = pb.ListLogsRequest(page_size=1)
    async with lost_log(tmp_path, put_back=[put_back]) as lost:
        with metered() as metrics:
            async with lost.start() as anchor:
                page = await anchor.ask("ListLogs", first)
                (told,) = page.lost_logs
                assert (told.name, told.tree_size) == (f"logs/{lost.uid}", 4)
                assert told.reason == reason
                assert str(tmp_path) in told.where
                assert [log.name for log in page.logs] != [told.name]
                assert metrics.value("anchor.lost_logs") == 1
        lost.give_up()
        with metered() as metrics:
            async with lost.start() as anchor:
                assert not (await anchor.ask("ListLogs", first)).lost_logs
                assert metrics.value("anchor.lost_logs") == 0


async def test_log_that_only_a_sink_knows_is_not_denied(tmp_path: Path) -> None:
    """No marker: a volume was put back. The next start finds it again."""
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        for _ in range(2):
            async with lost.start() as anchor:
                assert (await refused(anchor)).reason == "RESTORED_BEHIND"
                lost.shared.grow(1)
                await anchor.submit(lost.shared, len(lost.shared.entries) - 1)
        lost.give_up()
        await let_go(lost)


async def test_restored_anchor_counts_no_ledgers_before_sinks_have_named_their_logs(
    tmp_path: Path,
) -> None:
    """Also after its logs were confirmed and have lost their markers, and it was started again."""
    sink, away, marker = tmp_path / "sink", tmp_path / "away", tmp_path / "anchor" / MARKER
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        lost.mark()
        async with lost.start() as anchor:
            assert (await refused(anchor)).reason in ("RESTORED_BEHIND", "RESTORE_NOT_CONFIRMED")
            logs = lost.log_dir.parent
            await eventually(lambda: not [*logs.glob(f"*/{MARKER}")], 60)
            await found(anchor)
        assert marker.exists()
        # It is away at the next start, which is not held by any log's own marker.
        sink.rename(away)
        sink.touch()
        async with lost.start() as anchor:
            assert (await refused(anchor)).reason == "RESTORE_NOT_CONFIRMED"
            # Empty, it is not the place it was.
            sink.unlink()
            assert (await refused(anchor)).reason == "RESTORE_NOT_CONFIRMED"
            away.rename(sink)
            await found(anchor)
        lost.give_up()
        await let_go(lost)
        assert not marker.exists()


async def test_start_that_waits_for_sinks_waits_for_their_logs(tmp_path: Path) -> None:
    sink, away = tmp_path / "sink", tmp_path / "away"
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        sink.rename(away)
        sink.touch()
        async with lost.start(wait_for_sinks=True) as anchor:
            assert (await refused(anchor)).reason == "START_NOT_CONFIRMED"
            sink.unlink()
            away.rename(sink)
            await found(anchor)
        lost.give_up()
        await let_go(lost, wait_for_sinks=True)


async def test_start_without_keys_denies_no_log_that_a_sink_holds(tmp_path: Path) -> None:
    """Which of them are ours cannot be told before the keys service answers."""
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            keys, lost.keys = lost.keys, f"127.0.0.1:{listener.getsockname()[1]}"
            async with lost.start() as anchor:
                assert (await refused(anchor)).reason == "START_NOT_CONFIRMED"
                async with passing_on(listener, keys):
                    await found(anchor)


async def test_sink_that_was_away_at_a_start_is_heard_later(tmp_path: Path) -> None:
    sink, away, new = tmp_path / "sink", tmp_path / "away", tmp_path / "new"
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        sink.rename(away)
        sink.touch()
        async with lost.start() as anchor:
            assert await counted(anchor) == 1
            new.symlink_to(away)
            new.replace(sink)
            await no_longer_counted(anchor)
            assert (await refused(anchor)).reason == "RESTORED_BEHIND"


async def test_logs_of_others_and_unfinished_ones_hold_up_nothing(tmp_path: Path) -> None:
    """Another installation of the same prefix has a sink with us; and some directories are none."""
    other = tmp_path / "other"
    other.mkdir()
    shared = {"sinks": (f"file://{tmp_path}/sink",)}
    async with anchor_on(other, **shared) as anchor:
        ledger = Ledger("of another")
        ledger.grow(1)
        await anchor.submit(ledger)
        await anchored(anchor, ANY, 2)
    async with lost_log(tmp_path, put_back=["tiles", "sink"]) as lost:
        (lost.log_dir / "scratch").mkdir(parents=True)
        (lost.log_dir.parent / "lost+found").mkdir()
        (lost.log_dir.parent / "lost+found" / "checkpoint").touch()
        lost.mark()
        async with lost.start() as anchor:
            assert await counted(anchor) == 1
            assert (await anchor.ask("CreateLog", CREATE)).created


async def test_log_that_was_given_up_and_is_there_again_can_be_lost_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lost_log(tmp_path, put_back=["sink"]) as lost:
        lost.give_up()
        async with lost.start() as anchor:
            assert await counted(anchor) == 1
        put_databases(tmp_path / "newer", tmp_path)
        async with lost.start() as anchor:
            assert await counted(anchor) == 2
        assert not (lost.log_dir / GIVEN_UP).exists()
        assert caplog.messages.count("anchor.given_up_ended") == 1
        put_databases(tmp_path / "copy", tmp_path)
        async with lost.start() as anchor:
            assert (await refused(anchor)).reason == "DATABASE_BEHIND"


@pytest.mark.parametrize("name", [MARKER, GIVEN_UP])
async def test_directory_that_cannot_be_read_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of a tenant's log, one with a row (its marker is looked for), and one without."""
    async with lost_log(tmp_path, put_back=["sink"]) as lost:
        if name == MARKER:
            shutil.rmtree(lost.log_dir)
            async with lost.start() as anchor:
                made = (await anchor.ask("CreateLog", CREATE)).log
            lost.uid = made.uid.hex()
        spoil(monkeypatch, lost.log_dir / name)
        async with lost.start() as anchor:
            lost.shared.grow(1)
            assert (await anchor.submit(lost.shared, 2)).tree_size == 4
            if name == GIVEN_UP:
                assert (await refused(anchor)).reason == "DATABASE_BEHIND"
            else:
                assert await counted(anchor) == 1


async def test_unreadable_log_of_a_sink_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lost_log(tmp_path, put_back=["tiles"]) as lost:
        (held,) = (tmp_path / "sink").glob(f"*{lost.uid}")
        # Before and behind the one that is lost.
        for name in ("0" * 32, "f" * 32):
            directory = held.with_name(held.name.replace(lost.uid, name))
            directory.mkdir()
            (directory / "latest").symlink_to("latest")
        async with lost.start() as anchor:
            assert (await refused(anchor)).reason == "RESTORED_BEHIND"
        lost.give_up()
        lost.mark()
        caplog.clear()
        async with lost.start() as anchor:
            await eventually(lambda: "anchor.confirmed" in caplog.messages, 60)
            error = await refused(anchor)
            assert error.reason == "RESTORE_NOT_CONFIRMED"
            assert "(2)" in error.message
            assert "0" * 32 not in error.message, "another tenant's"
            told = [each for each in caplog.records if each.getMessage() == "anchor.log_not_read"]
            assert len(told) == 2
            assert "0" * 32 in str(vars(told[0]))
            for name in ("0" * 32, "f" * 32):
                (lost.log_dir.parent / name).mkdir()
                (lost.log_dir.parent / name / GIVEN_UP).touch()
            assert await counted(anchor) == 1


async def test_no_shared_log_is_made_where_logs_were_published(tmp_path: Path) -> None:
    """The database is empty: it was lost as a whole, or is another one."""
    async with lost_log(tmp_path) as lost:
        for path in databases(tmp_path):
            path.unlink()
        with pytest.raises(DataLossError) as caught:
            await build(settings(tmp_path, lost.keys))
        assert caught.value.reason == "DATABASE_BEHIND"


@pytest.mark.parametrize("changes", [{}, {"wait_for_sinks": True}])
async def test_no_shared_log_is_made_where_a_sink_holds_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    """The directory is empty, too: new volumes, or other places than those that were meant."""
    sink = tmp_path / "sink"
    async with lost_log(tmp_path) as lost:
        for path in databases(tmp_path):
            path.unlink()
        shutil.rmtree(tmp_path / "anchor")
        held = sorted(sink.iterdir())
        config = settings(tmp_path, lost.keys, **changes)
        with pytest.raises(FailedPreconditionError) as caught:
            await build(config)
        assert caught.value.reason == "RESTORED_BEHIND"
        assert sorted(sink.iterdir()) == held
        if changes:
            # One that is to answer is waited for, as the first key is.
            sink.rename(tmp_path / "away")
            sink.touch()
            building = asyncio.create_task(build(config))
            await eventually(lambda: "anchor.lost_logs_not_known" in caplog.messages, 60)
            (tmp_path / "new").symlink_to(tmp_path / "away")
            (tmp_path / "new").replace(sink)
            with pytest.raises(FailedPreconditionError):
                await building
        async with lost.start(origin_prefix="elsewhere.example", **changes) as anchor:
            assert await counted(anchor) == 0
