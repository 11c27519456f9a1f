"""A log interrupted anywhere goes on where it was: nothing lost, doubled or signed twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anchor_svc import files
from anchor_svc.openlog import OpenLog
from anchor_svc.storage import Storage
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError, UnavailableError
from provledger.keyset import KeyPurpose
from provledger.tiles import encode_bundle
from tests.support.anchoring import (
    LOG_UID,
    Ledger,
    TestKeys,
    check_log,
    eventually,
    keys_of,
    read_entries,
    running_log,
    submit,
)

REPO = Path(__file__).resolve().parents[2]


class Crash(Exception):
    """The process is gone at this point, as far as the log is concerned."""


class Interrupted:
    """A log whose process dies at one step of its `nth` flush: that step and no later one runs."""

    def __init__(self, step: str, nth: int = 2) -> None:
        self.step = step
        self._left = nth
        self.happened = False

    def reached(self, step: str) -> None:
        """Die here, if this is the step."""
        if self.happened:
            raise Crash
        if step == self.step:
            self._left -= 1
            if self._left == 0:
                self.happened = True
                raise Crash

    def wrap(self, storage: Storage) -> Any:
        """Put the steps of the database into a storage."""
        return _InterruptedStorage(storage, self)

    def prepare(self, log: OpenLog) -> None:
        """Put the steps of key and files into a log."""
        signer = keys_of(log).signers[KeyPurpose.CHECKPOINT]
        sign = type(signer).sign

        async def signing(message: bytes) -> bytes:
            self.reached("before sign")
            signature = await sign(signer, message)
            self.reached("after sign")
            return signature

        write_growth = log.store.write_growth

        def writing(growth: Any) -> None:
            if not growth.tiles:
                return
            self.reached("before tiles")
            if self.step == "some tiles":
                write_growth(type(growth)(growth.tiles[:1], ()))
            self.reached("some tiles")
            write_growth(growth)
            self.reached("after tiles")

        signer.sign = signing  # type: ignore[method-assign]
        log.store.write_growth = writing  # type: ignore[method-assign]


class _InterruptedStorage:
    def __init__(self, inner: Storage, interrupted: Interrupted) -> None:
        self._inner = inner
        self._interrupted = interrupted

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in ("commit", "store_notes"):
            return method

        async def call(*args: Any) -> Any:
            self._interrupted.reached(f"before {name}")
            result = await method(*args)
            self._interrupted.reached(f"after {name}")
            return result

        return call


async def _submit_all(log: OpenLog, *parts: tuple[Ledger, int, int]) -> None:
    for ledger, start, end in parts:
        await submit(log, ledger, start, end)


STEPS = [
    "before commit",
    "after commit",
    "before sign",
    "after sign",
    "before tiles",
    "some tiles",
    "after tiles",
    "before store_notes",
    "after store_notes",
]


@pytest.mark.parametrize("step", STEPS)
async def test_log_goes_on_after_a_crash_at_any_step(
    database_url: str, tmp_path: Path, step: str
) -> None:
    keys = TestKeys()
    a, b = Ledger("a"), Ledger("b")
    a.grow(700)
    b.grow(600)
    interrupted = Interrupted(step)
    async with running_log(
        database_url, tmp_path, keys=keys, wrap=interrupted.wrap, prepare=interrupted.prepare
    ) as log:
        # The first flush of the test is the log's own first head, or it fills a tile.
        with pytest.raises((Crash, UnavailableError)):
            await _submit_all(log, (a, 0, 400), (b, 0, 300), (a, 400, 700))
    assert interrupted.happened
    del keys.signers[KeyPurpose.CHECKPOINT].sign
    async with running_log(database_url, tmp_path, keys=keys) as log:
        for _ in range(2):  # a retry of everything, then once more
            first = await submit(log, a, 0, 400)
            await _submit_all(log, (b, 0, 300), (a, 400, 700), (b, 300, 600))
        assert [(run.start_seq, run.start_index, run.count) for run in first.runs] == [(0, 1, 400)]
        await check_log(log, [a, b], keys)


@pytest.mark.parametrize("step", STEPS)
async def test_log_heals_itself_when_a_step_fails_once(
    database_url: str, tmp_path: Path, step: str
) -> None:
    """The same without a restart: callers are told to retry, and until then it heals."""
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(1000)
    failing = Interrupted(step)
    async with running_log(
        database_url,
        tmp_path,
        keys=keys,
        wrap=failing.wrap,
        prepare=failing.prepare,
        background=True,
    ) as log:
        await eventually(lambda: log.state.published_size == 1 or failing.happened)
        parts = [(ledger, start, start + 300) for start in range(0, 1000, 300)]
        with pytest.raises((Crash, UnavailableError)):
            await _submit_all(log, *parts)
        failing.happened = False
        failing.step = "none"
        if step != "before commit":
            await eventually(lambda: log.state.signed_size > 1)
        await _submit_all(log, *parts)
        await check_log(log, [ledger], keys)
        await eventually(lambda: log.state.published_size == 1001)


async def test_key_that_is_away_delays_and_loses_nothing(database_url: str, tmp_path: Path) -> None:
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(20)
    signer = keys.signers[KeyPurpose.CHECKPOINT]
    async with running_log(database_url, tmp_path, keys=keys) as log:
        await submit(log, ledger, 0, 5)
        signer.fail = True
        with pytest.raises(UnavailableError) as caught:
            await submit(log, ledger, 5, 10)
        assert caught.value.reason == "SIGNING_UNAVAILABLE"
        assert caught.value.retry_delay_s is not None
        # Nothing more is taken in while a head is unsigned, so that what is unsigned stays small.
        with pytest.raises(UnavailableError):
            await submit(log, ledger, 5, 20)
        assert (await log.reader.ledger_state(ledger.uid)).seq == 9  # type: ignore[union-attr]
        assert log.state.signed_size == 6
        proven = await log.reader.batch_inclusion(ledger.uid, list(range(10)), 0)
        assert [proof.seq for proof in proven.proofs] == [0, 1, 2, 3, 4]
        signer.fail = False
        outcome = await submit(log, ledger, 5, 10)
        assert outcome.tree_size == 11
        keys.away = True
        with pytest.raises(UnavailableError, match="taken the keys away"):
            await submit(log, ledger, 10, 20)
        keys.away = False
        await submit(log, ledger, 10, 20)
        await check_log(log, [ledger], keys)


async def test_log_starts_without_a_key_and_signs_when_it_comes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(300)
    async with running_log(url, tmp_path, keys=keys) as log:
        await submit(log, ledger, 0, 280)
        keys.signers[KeyPurpose.CHECKPOINT].fail = True
        with pytest.raises(UnavailableError):
            await submit(log, ledger, 280)
    async with running_log(url, tmp_path, keys=keys, background=True) as log:
        assert log.state.signed_size == 281
        keys.signers[KeyPurpose.CHECKPOINT].fail = False
        await eventually(lambda: log.state.signed_size == 301)
        await check_log(log, [ledger], keys)


async def test_full_disk_is_answered_by_unavailable_and_survived(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(600)
    async with running_log(database_url, tmp_path, keys=keys, background=True) as log:

        def fail(data: bytes, scratch: Path) -> Path:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(files, "write_scratch", fail)
            with pytest.raises(UnavailableError) as caught:
                await submit(log, ledger)
            assert caught.value.reason == "DISK_UNAVAILABLE"
        await submit(log, ledger)
        await check_log(log, [ledger], keys)
        await eventually(lambda: log.state.published_size == 601)


async def _sql(database_url: str, statement: str) -> None:
    def run() -> None:
        engine = open_engine(database_url, "anchor")
        with begin_write(engine) as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    await asyncio.to_thread(run)


def _flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


async def _make(database_url: str, data_dir: Path, entries: int = 700) -> Path:
    """A log of that many entries, closed again; returns the directory of its files."""
    ledger = Ledger()
    ledger.grow(entries)
    async with running_log(database_url, data_dir) as log:
        for start in range(0, entries, 500):
            await submit(log, ledger, start, min(start + 500, entries))
        await log.publisher.publish(log.state.signed_view())
        return log.store.root


async def _refuses(database_url: str, data_dir: Path, match: str) -> DataLossError:
    keys = TestKeys()
    with pytest.raises(DataLossError, match=match) as caught:
        async with running_log(database_url, data_dir, keys=keys):
            pass
    assert keys.signers[KeyPurpose.CHECKPOINT].signed == []
    return caught.value


@pytest.mark.parametrize("tile", ["tile/0/000", "tile/0/001"])
async def test_start_refuses_a_flipped_bit_in_a_tile_and_names_it(
    tmp_path: Path, tile: str
) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    root = await _make(url, tmp_path)
    _flip(root / tile)
    error = await _refuses(url, tmp_path, tile)
    assert error.metadata["tile"] == tile


async def test_start_refuses_a_missing_tile(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    root = await _make(url, tmp_path)
    (root / "tile/0/001").unlink()
    await _refuses(url, tmp_path, "tile/0/001 is missing")


async def test_start_names_the_stored_entry_that_was_changed(
    database_url: str, tmp_path: Path
) -> None:
    await _make(database_url, tmp_path)
    storage_bytes = "\\x" if database_url.startswith("postgres") else ""
    ledger = Ledger()
    ledger.grow(700)
    entries = ledger.entries[511:]
    changed = [*entries[:3], entries[3].replace(b'"v":"1"', b'"v":"2"'), *entries[4:]]
    # The tail lies in two pieces, of which the first was dropped with the second tile.
    value = encode_bundle(changed).hex()
    literal = f"'{storage_bytes}{value}'" if storage_bytes else f"X'{value}'"
    await _sql(database_url, "DELETE FROM entries")
    await _sql(
        database_url,
        "INSERT INTO entries (log_uid, start_index, bundle) "
        f"SELECT log_uid, 512, {literal} FROM logs",
    )
    error = await _refuses(database_url, tmp_path, "entry 515")
    assert error.metadata["logIndex"] == "515"


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("DELETE FROM entries", "log index 512"),
        ("UPDATE entries SET start_index = start_index + 1", "log index 512"),
        ("UPDATE logs SET size = size - 1", "does not have its stored root"),
        ("UPDATE logs SET tiled_size = tiled_size - 256", "log index 256"),
        ("UPDATE logs SET tiled_size = tiled_size - 1", "tiled size"),
        ("DELETE FROM checkpoints WHERE size = 701", "not among the checkpoints"),
        ("UPDATE checkpoints SET root = log_uid", "not among the checkpoints"),
        (
            "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 501)",
            "tree size 701 does not say",
        ),
    ],
)
async def test_start_refuses_rows_that_were_changed(
    database_url: str, tmp_path: Path, statement: str, match: str
) -> None:
    await _make(database_url, tmp_path)
    await _sql(database_url, statement)
    await _refuses(database_url, tmp_path, match)


async def test_start_refuses_a_database_from_an_older_backup(tmp_path: Path) -> None:
    """Nothing is signed then: a second history would begin."""
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    await _make(url, tmp_path, entries=10)
    backup = {path: path.read_bytes() for path in tmp_path.glob("anchor.sqlite3*")}
    ledger = Ledger()
    ledger.grow(20)
    async with running_log(url, tmp_path) as log:
        await submit(log, ledger)
        await log.publisher.publish(log.state.signed_view())
    for path in tmp_path.glob("anchor.sqlite3*"):
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)
    error = await _refuses(url, tmp_path, "older than the data directory")
    assert error.reason == "DATABASE_BEHIND"


async def test_start_refuses_another_history_than_the_published_one(tmp_path: Path) -> None:
    """As after an older backup that was written to before anybody noticed."""
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    root = await _make(url, tmp_path, entries=10)
    forked = f"sqlite:///{tmp_path}/forked.sqlite3"
    other = Ledger("other")
    other.grow(10)
    async with running_log(forked, tmp_path / "elsewhere") as log:
        await submit(log, other)
        await log.publisher.publish(log.state.signed_view())
        (root / "checkpoint").write_bytes((log.store.root / "checkpoint").read_bytes())
    error = await _refuses(url, tmp_path, "another history")
    assert error.reason == "HISTORY_CHANGED"


async def test_changed_state_of_a_ledger_is_found_at_first_contact(
    database_url: str, tmp_path: Path
) -> None:
    await _make(database_url, tmp_path)
    ledger = Ledger()
    ledger.grow(710)
    async with running_log(database_url, tmp_path) as log:
        # At a start it is found as well: `test_anchor_ledger_rows`.
        await _sql(database_url, "UPDATE ledgers SET seq = 600, log_index = 601")
        with pytest.raises(DataLossError, match="not what the log holds"):
            await submit(log, ledger, 700)
        # Another ledger is not concerned.
        other = Ledger("other")
        other.grow(1)
        await submit(log, other)
        await _sql(
            database_url, "UPDATE ledgers SET seq = 699, log_index = 700 WHERE log_index = 601"
        )
    async with running_log(database_url, tmp_path) as log:
        await submit(log, ledger, 700)


async def test_changed_run_of_a_ledger_is_not_taken_for_a_fork(
    database_url: str, tmp_path: Path
) -> None:
    await _make(database_url, tmp_path)
    ledger = Ledger()
    ledger.grow(710)
    await _sql(database_url, "UPDATE runs SET start_index = 2")
    async with running_log(database_url, tmp_path) as log:
        with pytest.raises(DataLossError):
            await submit(log, ledger, 10, 20)
        with pytest.raises(DataLossError):
            await log.reader.batch_inclusion(ledger.uid, list(range(5, 300)), 0)
        assert (await log.reader.ledger_state(ledger.uid)).forked_seq is None  # type: ignore[union-attr]


@pytest.mark.faults
async def test_log_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    """Real processes, real SIGKILL: whatever was acknowledged is there, and all of it verifies."""
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    acknowledged = await asyncio.to_thread(_kill_often, url, tmp_path)
    keys = TestKeys()
    ledger = Ledger()
    async with running_log(url, tmp_path, keys=keys) as log:
        entries = read_entries(log)
        assert len(entries) - 1 >= acknowledged > 0
        ledger.grow(len(entries) - 1)
        await check_log(log, [ledger], keys)
        assert log.identity.uid == LOG_UID


def _kill_often(url: str, data_dir: Path) -> int:
    """Let six processes in turn fill the log until they are killed; how far they got."""
    acknowledged = 0
    for round_number in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, url, str(data_dir)],
            cwd=REPO,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        deadline_s = None
        for line in child.stdout:
            acknowledged = max(acknowledged, int(line))
            deadline_s = deadline_s or time.monotonic() + 0.05 * round_number
            if time.monotonic() > deadline_s:
                child.kill()
        assert child.wait() == -9
    return acknowledged


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.support.anchoring import Ledger, running_log, submit

async def main():
    ledger = Ledger()
    async with running_log(sys.argv[1], Path(sys.argv[2]), background=True) as log:
        state = await log.reader.ledger_state(ledger.uid)
        at = 0 if state is None else state.seq + 1
        ledger.grow(at)
        while True:
            ledger.grow(37)
            await submit(log, ledger, at)
            at += 37
            print(at, flush=True)

asyncio.run(main())
"""


async def test_interrupting_callers_does_not_interrupt_the_flush(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(50)
    async with running_log(url, tmp_path, keys=keys) as log:
        call = asyncio.ensure_future(submit(log, ledger))
        while log.committer._lock.locked() is False:  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        await eventually(lambda: log.state.signed_size == 51)
        await check_log(log, [ledger], keys)
