"""Flushes that overlap, on real databases: killed, failed and fenced with several under way.

Whatever happens: what was answered is in the log, every note that left the process is of a head of
the one tree, and a retry of everything brings everything in, once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchor_svc.openlog import OpenLog
from anchor_svc.storage import NONE_SIGNED, Flush, Signed, Storage
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError, FailedPreconditionError, UnavailableError
from provledger.keyset import KeyPurpose
from provledger.kms.errors import KMSThrottledError
from provledger.kms.remote import RemoteSigner
from provledger.pacing import Overlap
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    check_log,
    eventually,
    keys_of,
    running_log,
    submit,
)
from tests.support.token_bucket import TokenBucket

STEPS = (
    "before commit",
    "after commit",
    "before sign",
    "after sign",
    "before tiles",
    "after tiles",
    "before store_notes",
    "after store_notes",
)
SIZES = (40, 5, 30, 70, 1, 24)
"""Entries of each ledger's submissions: together they fill tiles, and flushes cross their ends."""


class Crash(Exception):
    """The process is gone, as far as the log is concerned."""


class Hazard:
    """Puts every step off by a few turns of the loop; the process dies at the nth of one kind.

    What is on its way to the database by then arrives there all the same. `let_out`: all notes that
    were handed to anybody. `most`: most commits under way at once.
    """

    def __init__(self, step: str = "", nth: int = 1, seed: int = 0) -> None:
        self._step, self._left = step, nth
        self._rng = random.Random(seed)
        self.dead = False
        self.let_out: list[bytes] = []
        self.under_way = self.most = 0

    async def at(self, step: str) -> None:
        """Reach a step."""
        for _ in range(self._rng.randrange(30)):
            await asyncio.sleep(0)
        if not self.dead and step == self._step:
            self._left -= 1
            self.dead = self._left == 0
        if self.dead:
            raise Crash

    def wrap(self, storage: Storage) -> Any:
        """Put it between a log and its storage."""
        return _Storage(storage, self)

    def prepare(self, log: OpenLog) -> None:
        """Put it between a log and its key and files; let flushes overlap as if all were far."""
        log.committer.pipeline._overlap = _Everything()
        signer = keys_of(log).signers[KeyPurpose.CHECKPOINT]
        sign = type(signer).sign

        async def signing(message: bytes) -> bytes:
            await self.at("before sign")
            signature: bytes = await sign(signer, message)
            await self.at("after sign")
            return signature

        signer.sign = signing  # type: ignore[method-assign]
        write_growth = log.store.write_growth

        def writing(growth: Any) -> None:
            for step in ("before tiles", "after tiles"):
                if not self.dead and step == self._step and growth.tiles:
                    self._left -= 1
                    self.dead = self._left == 0
                if self.dead:
                    raise Crash
                if step == "before tiles":
                    write_growth(growth)

        log.store.write_growth = writing  # type: ignore[method-assign]


class _Everything(Overlap):
    def most(self, budget_s: float, most: int) -> int:
        return most


class _Storage:
    """Four lanes, on either database."""

    lanes = 4

    def __init__(self, inner: Storage, hazard: Hazard) -> None:
        self._inner = inner
        self._hazard = hazard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(
        self, log_uid: bytes, epoch: int, flush: Flush, signed: Signed = NONE_SIGNED
    ) -> Mapping[int, bytes]:
        hazard = self._hazard
        hazard.under_way += 1
        hazard.most = max(hazard.most, hazard.under_way)
        try:
            await hazard.at("before commit")
            hazard.let_out += signed.notes.values()
            stored = await self._inner.commit(log_uid, epoch, flush, signed)
            await hazard.at("after commit")
            return stored
        finally:
            hazard.under_way -= 1

    async def store_notes(self, log_uid: bytes, epoch: int, signed: Signed) -> Mapping[int, bytes]:
        await self._hazard.at("before store_notes")
        self._hazard.let_out += signed.notes.values()
        stored = await self._inner.store_notes(log_uid, epoch, signed)
        await self._hazard.at("after store_notes")
        return stored


def make_ledgers() -> list[Ledger]:
    ledgers = [Ledger(label) for label in "abc"]
    for ledger in ledgers:
        ledger.grow(sum(SIZES))
    return ledgers


async def submit_everything(log: OpenLog, ledgers: list[Ledger]) -> tuple[dict[bytes, int], int]:
    """Each ledger's submissions one behind the other, without waiting for answers.

    Returns how far each ledger was answered for, and how many submissions failed.
    """
    calls = []
    start = 0
    for count in SIZES:
        for ledger in ledgers:
            call = asyncio.ensure_future(submit(log, ledger, start, start + count))
            calls.append((ledger.uid, start + count, call))
            await asyncio.sleep(0)
        start += count
    answered: dict[bytes, int] = {}
    failed = 0
    for uid, end, call in calls:
        try:
            await call
        except (Crash, UnavailableError):
            failed += 1
        except FailedPreconditionError as error:
            # It follows upon a submission that failed.
            if error.reason != "SEQ_GAP":
                raise
            failed += 1
        else:
            answered[uid] = max(answered.get(uid, 0), end)
    return answered, failed


async def crash_and_go_on(url: str, folder: Path, hazard: Hazard) -> None:
    """Run into the hazard, start again, and check all there is to check."""
    keys, ledgers = TestKeys(), make_ledgers()
    async with running_log(url, folder, keys=keys, wrap=hazard.wrap, prepare=hazard.prepare) as log:
        answered, failed = await submit_everything(log, ledgers)
    assert hazard.most > 1 or hazard.dead
    assert bool(failed) == hazard.dead
    del keys.signers[KeyPurpose.CHECKPOINT].sign
    after = Hazard(seed=99)
    async with running_log(url, folder, keys=keys, wrap=after.wrap) as log:
        for ledger in ledgers:
            state = await log.reader.ledger_state(ledger.uid)
            assert (-1 if state is None else state.seq) + 1 >= answered.get(ledger.uid, 0)
        signed = log.state.signed_view().newest_prover()
        for ledger in ledgers:
            if end := answered.get(ledger.uid, 0):
                proven = await log.reader.batch_inclusion(ledger.uid, [*range(end)], signed.size)
                assert len(proven.proofs) == end
        for _ in range(2):
            assert (await submit_everything(log, ledgers))[1] == 0
        await check_log(log, ledgers, keys, let_out=[*hazard.let_out, *after.let_out])


@pytest.mark.parametrize("step", STEPS)
async def test_log_goes_on_after_a_crash_with_flushes_under_way(
    database_url: str, tmp_path: Path, step: str
) -> None:
    await crash_and_go_on(database_url, tmp_path, Hazard(step, 1 if "tiles" in step else 4))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(STEPS), st.integers(2, 9), st.integers(0, 10_000))
def test_no_two_heads_ever_and_nothing_answered_is_lost(
    tmp_path_factory: pytest.TempPathFactory, step: str, nth: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    url = f"sqlite:///{folder}/anchor.sqlite3"
    asyncio.run(crash_and_go_on(url, folder, Hazard(step, nth, seed)))


@pytest.mark.parametrize("step", STEPS)
async def test_log_heals_itself_with_flushes_under_way(
    database_url: str, tmp_path: Path, step: str
) -> None:
    """The same without a restart."""
    keys, ledgers, hazard = (
        TestKeys(),
        make_ledgers(),
        Hazard(step, 1 if "tiles" in step else 3, seed=4),
    )
    async with running_log(
        database_url,
        tmp_path,
        keys=keys,
        wrap=hazard.wrap,
        prepare=hazard.prepare,
        background=True,
    ) as log:
        answered, failed = await submit_everything(log, ledgers)
        assert failed
        hazard.dead = False
        for ledger in ledgers:
            state = await log.reader.ledger_state(ledger.uid)
            assert (-1 if state is None else state.seq) + 1 >= answered.get(ledger.uid, 0)
        assert (await submit_everything(log, ledgers))[1] == 0
        await check_log(log, ledgers, keys, let_out=hazard.let_out)


class Throttled:
    """The checkpoint key behind a provider that signs so many a second.

    What is between, retries, deadlines and the learned rate, is what every remote key has.
    """

    def __init__(self, signer: Any, rate_per_s: float) -> None:
        self._sign = signer.sign
        self._bucket = TokenBucket(rate_per_s, 1)
        self.refused = 0
        self.remote = RemoteSigner(
            "test-kms:checkpoint-1",
            signer.algorithm,
            signer.public_key,
            self._once,
            release=signer.close,
        )

    async def _once(self, message: bytes, timeout_s: float) -> bytes:
        if not self._bucket.take():
            self.refused += 1
            raise KMSThrottledError("over the rate", retry_delay_s=0.0)
        signature: bytes = await self._sign(message)
        return signature


@pytest.mark.parametrize("rate_per_s", [4, 20])
async def test_key_that_is_throttled_loses_nothing_and_forks_nothing(
    database_url: str, tmp_path: Path, rate_per_s: float
) -> None:
    """Appenders wait, or are told to come back; what they repeat is there, once."""
    keys, ledgers, hazard = TestKeys(), make_ledgers(), Hazard(seed=8)
    answered: dict[bytes, int] = {}
    async with running_log(
        database_url,
        tmp_path,
        keys=keys,
        wrap=hazard.wrap,
        prepare=hazard.prepare,
        background=True,
    ) as log:
        signer = keys.signers[KeyPurpose.CHECKPOINT]
        throttled = Throttled(signer, rate_per_s)
        signer.sign = throttled.remote.sign  # type: ignore[method-assign]
        failed = 1
        async with asyncio.timeout(60):
            while failed:
                # Anything else than UNAVAILABLE, and the gap behind it, is raised here.
                told, failed = await submit_everything(log, ledgers)
                for uid, end in told.items():
                    answered[uid] = max(answered.get(uid, 0), end)
                for ledger in ledgers:
                    state = await log.reader.ledger_state(ledger.uid)
                    assert (-1 if state is None else state.seq) + 1 >= answered.get(ledger.uid, 0)
        assert throttled.refused
        assert hazard.most > 1
        await check_log(log, ledgers, keys, let_out=hazard.let_out)
        signed = log.state.signed_view()
    # And it is what is stored.
    del keys.signers[KeyPurpose.CHECKPOINT].sign
    async with running_log(database_url, tmp_path, keys=keys) as log:
        assert log.state.signed_view().note == signed.note
        await check_log(log, ledgers, keys, let_out=[*hazard.let_out, signed.note])


class Gate(Hazard):
    """Commits wait for `open`, one after the other; counted are those that do."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.open = asyncio.Event()

    async def at(self, step: str) -> None:
        """Wait at the gate."""
        if step == "before commit" and not self.open.is_set():
            self.waiting += 1
            await self.open.wait()


async def until_waiting(log: OpenLog, gate: Gate, *makers: Callable[[], Any]) -> list[Any]:
    """Start calls one by one, each when the one before waits in a flush of its own."""
    calls = []
    for number, make in enumerate(makers, 1):
        calls.append(asyncio.ensure_future(make()))
        await eventually(lambda number=number: gate.waiting == number)  # type: ignore[misc]
    return calls


async def test_second_process_fences_flushes_that_are_under_way(
    postgres_database_url: str, tmp_path: Path
) -> None:
    keys, ledger, gate = TestKeys(), Ledger(), Gate()
    ledger.grow(900)
    async with running_log(
        postgres_database_url, tmp_path, keys=keys, wrap=gate.wrap, prepare=gate.prepare
    ) as first:
        parts = (0, 100), (100, 300), (300, 310)
        calls = await until_waiting(
            first, gate, *(lambda part=part: submit(first, ledger, *part) for part in parts)
        )
        # Their signatures are made already, and held back.
        await eventually(lambda: len(keys.signers[KeyPurpose.CHECKPOINT].signed) == 4)
        del keys.signers[KeyPurpose.CHECKPOINT].sign
        async with running_log(postgres_database_url, tmp_path, keys=keys) as second:
            other = Ledger("other")
            other.grow(100)
            await submit(second, other)
            gate.open.set()
            for call in calls:
                with pytest.raises(UnavailableError) as caught:
                    await call
                assert caught.value.reason == "WRITER_FENCED"
            assert first.committer.fenced.is_set()
            await submit(second, ledger)
            let_out = [*gate.let_out, second.state.signed_view().note]
            await check_log(second, [ledger, other], keys, let_out=let_out)
            assert len(gate.let_out) == 1  # of the log's own first head


async def test_repeat_of_what_is_under_way_waits_for_it(database_url: str, tmp_path: Path) -> None:
    keys, ledger, gate = TestKeys(), Ledger(), Gate()
    ledger.grow(300)
    async with running_log(
        database_url, tmp_path, keys=keys, wrap=gate.wrap, prepare=gate.prepare
    ) as log:
        calls = await until_waiting(log, gate, lambda: submit(log, ledger, 0, 200))
        again = asyncio.ensure_future(submit(log, ledger, 0, 300))
        other = Ledger(ledger.label)
        other.grow(10, salt="other")
        fork = asyncio.ensure_future(submit(log, other))
        await asyncio.sleep(0)
        gate.open.set()
        (first,) = [await call for call in calls]
        repeated = await again
        assert [(run.start_index, run.count) for run in repeated.runs] == [(1, 300)]
        assert first.tree_size >= 201
        with pytest.raises(Exception, match="another history"):
            await fork
        await check_log(log, [ledger], keys)


async def test_database_that_forgets_a_released_head_stops_the_log(tmp_path: Path) -> None:
    """It acknowledged the head, and the signature may be with others: no second one is made."""
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(30)
    async with running_log(url, tmp_path, keys=keys) as log:
        await submit(log, ledger, 0, 10)
        await submit(log, ledger, 10, 20)
        await asyncio.to_thread(_forget_after_11, url)
        signed = log.state.signed_view()
        with pytest.raises(DataLossError) as caught:
            await submit(log, ledger, 20)
        assert caught.value.reason == "LOG_ROW_CHANGED"
        for _ in range(2):
            with pytest.raises(DataLossError) as caught:
                await submit(log, ledger, 10)
            assert caught.value.reason == "DATABASE_BEHIND"
        assert log.state.signed_view() is signed


def _forget_after_11(url: str) -> None:
    engine = open_engine(url, "anchor")
    with begin_write(engine) as connection:
        for statement in (
            "UPDATE logs SET size = 11, root = (SELECT root FROM checkpoints WHERE size = 11)",
            "UPDATE ledgers SET seq = 9, log_index = 10",
            "DELETE FROM checkpoints WHERE size > 11",
            "DELETE FROM entries WHERE start_index > 10",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()


async def test_end_whose_flushes_fail_releases_everything_else(tmp_path: Path) -> None:
    """Whoever ends the log hears of it all the same."""
    released: list[str] = []

    def prepare(log: OpenLog) -> None:
        commit, relay = log.committer.close, log.relays.close

        async def fail() -> None:
            await commit()
            raise OSError(5, "Input/output error")

        async def release() -> None:
            await relay()
            released.append("sinks")

        log.committer.close = fail  # type: ignore[method-assign]
        log.relays.close = release  # type: ignore[method-assign]

    with pytest.raises(OSError, match="Input/output"):
        async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path, prepare=prepare):
            pass
    assert released == ["sinks"]
