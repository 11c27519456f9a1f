"""The ledger's storage: one suite for SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex

from ledger_svc.chain import HeadState
from ledger_svc.storage import Known, LogRun, RowsRefusedError, Storage, Unlogged
from ledger_svc.storage.database import Database
from ledger_svc.storage.tables import metadata
from provledger.db import Presence, is_sqlite
from provledger.errors import DataLossError
from tests.support.ledger_rows import Decided, append, candidate, info, make
from tests.support.ledgering import eventually

# --- schema --------------------------------------------------------------------------------------


async def test_migrations_make_the_declared_tables(storage: Database) -> None:
    inspector = sa.inspect(storage._engine)
    for table in metadata.tables.values():
        columns = inspector.get_columns(table.name)
        assert [column["name"] for column in columns] == [column.name for column in table.columns]
        assert not any(column["nullable"] for column in columns if column["name"] != "ledger_uid")
        keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
        assert keys == [column.name for column in table.primary_key]
        assert keys[0] == "ledger_uid"


async def test_migrations_make_the_declared_indexes(storage: Database) -> None:
    engine = storage._engine
    declared = [
        index
        for table in metadata.tables.values()
        for index in table.indexes
        # What `ddl_if` says, without making it.
        if index.unique or str(index.name).endswith("_span") == is_sqlite(engine)
    ]
    if is_sqlite(engine):
        # The inspector passes over expressions.
        with engine.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
            ).scalars()
            statements = {" ".join(sql.split()) for sql in found}
        assert statements == {str(CreateIndex(index)) for index in declared}
    else:
        assert {
            (index["name"], tuple(index["column_names"]), bool(index["unique"]))
            for table in metadata.tables.values()
            for index in sa.inspect(engine).get_indexes(table.name)
            if "duplicates_constraint" not in index
        } == {
            (index.name, tuple(column.name for column in index.columns), bool(index.unique))
            for index in declared
        }


async def test_migrating_again_changes_nothing(storage: Database) -> None:
    ledger = await make(storage)
    await asyncio.to_thread(storage.migrate)
    assert (await storage.get_head(ledger.uid)).head.seq == 0


# --- ledgers -------------------------------------------------------------------------------------


async def test_ledger_comes_back_as_it_was_stored(storage: Storage) -> None:
    ledger = await make(storage)
    assert await storage.get_ledger("acme", "main") == ledger
    assert await storage.get_ledger("acme", "none") is None
    state = await storage.get_head(ledger.uid)
    assert (state.head.seq, state.logged_seq, state.read_only_reason) == (0, -1, "")


async def test_second_ledger_of_a_name_gives_way_to_the_first(storage: Storage) -> None:
    first = await make(storage)
    assert await make(storage, info()) == first
    assert len(await storage.list_ledgers("", ("", ""), 10)) == 1


async def test_ledgers_are_listed_from_where_one_left(storage: Storage) -> None:
    names = [(tenant, ledger) for tenant in ("a", "a-b", "b") for ledger in ("m", "m-1", "z")]
    for tenant, ledger in reversed(names):
        await make(storage, info(ledger, tenant))

    async def listed(tenant: str, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        found = await storage.list_ledgers(tenant, after, limit)
        return [(item.tenant, item.ledger) for item, _ in found]

    assert await listed("", ("", ""), 100) == names
    assert await listed("", names[3], 2) == names[4:6]
    assert await listed("a-b", ("", ""), 100) == names[3:6]
    assert await listed("a-b", names[4], 100) == names[5:6]
    assert await listed("a-b", names[8], 100) == []


async def test_head_of_a_ledger_that_is_not_there_is_data_loss(storage: Storage) -> None:
    with pytest.raises(DataLossError):
        await storage.get_head(bytes(16))


# --- appends -------------------------------------------------------------------------------------


async def test_rows_come_back_as_they_were_stored(storage: Storage) -> None:
    ledger = await make(storage)
    odd = candidate(
        "r2",
        resource_id="\u00e9 \U0001f600'\"\\%?",
        payload=b"",
        secret=b"",
        statement=bytes(range(256)) * 40,
        commitment_size=0,
    )
    decided = await append(storage, ledger, candidate("r1"), odd, candidate("r3"))
    assert decided.linked is not None
    rows = decided.linked.rows
    stored = await storage.get_rows(ledger.uid, [1, 2, 3], full=True)
    assert [item.row for item in stored] == rows
    genesis = await storage.get_rows(ledger.uid, [0], full=True)
    assert genesis[0].previous_hash is None
    assert stored[0].previous_hash == genesis[0].row.receipt_hash
    assert [item.previous_hash for item in stored[1:]] == [row.receipt_hash for row in rows[:2]]
    apart = await storage.get_rows(ledger.uid, [1, 3, 7], full=True)
    assert apart == [stored[0], stored[2]]
    assert await storage.get_receipt(ledger.uid, rows[1].receipt_id) == stored[1]
    assert await storage.get_receipt(bytes(16), rows[1].receipt_id) is None
    batches = await storage.get_batches(ledger.uid, [0, 1, 2])
    assert sorted(batches) == [0, 1]
    assert batches[1] == decided.linked.batch
    assert await storage.receipt_hash_at(ledger.uid, 2) == rows[1].receipt_hash
    assert await storage.receipt_hash_at(ledger.uid, 9) is None
    light = (await storage.get_rows(ledger.uid, [2], full=False))[0]
    assert light.row == rows[1]._replace(statement=b"", payload=b"", secret=b"")
    assert await storage.get_rows(ledger.uid, [1, 3], full=False) == [
        item._replace(row=item.row._replace(statement=b"", payload=b"", secret=b""))
        for item in (stored[0], stored[2])
    ]


async def test_large_batches_are_stored(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1000)))
    head = (await storage.get_head(ledger.uid)).head
    assert head.seq == 1000
    found = await storage.find_requests(ledger.uid, [f"r{n}" for n in range(990, 1010)])
    assert found.head_seq == 1000
    assert sorted(found.known) == sorted(f"r{n}" for n in range(990, 1000))


async def test_request_ids_are_looked_up_under_the_lock(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, candidate("r1"), candidate("r2"))
    decided = await append(storage, ledger, candidate("r2"), candidate("r3"), known_seq=0)
    assert list(decided.known) == ["r2"]
    assert decided.known["r2"].seq == 2
    assert decided.linked is not None
    assert [row.request_id for row in decided.linked.rows] == ["r3"]
    # The head is where the caller looked them up: not asked again.
    assert (await append(storage, ledger, candidate("r9"), known_seq=3)).known == {}


def statements(storage: Storage) -> list[str]:
    """What is sent to the database from now on, but for what each new connection asks once."""
    sent: list[str] = []

    def execute(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "pg_postmaster_start_time" not in statement:
            sent.append(statement)

    sa.event.listen(storage._engine, "before_cursor_execute", execute)  # type: ignore[attr-defined]
    return sent


async def test_a_known_head_takes_one_statement_and_stores_the_same(storage: Storage) -> None:
    ledger = await make(storage)
    first = await append(storage, ledger, candidate("r1"), candidate("r2"))
    assert first.linked is not None
    sent = statements(storage)
    resource = '\u00e9\U0001f600 \\ "{,}'
    given = [candidate("r3", resource_id=resource, payload=b""), candidate("r4")]
    second = await append(storage, ledger, *given, known_seq=2, last=first.linked.head)
    if not storage._sql.is_sqlite:  # type: ignore[attr-defined]
        first_of_connection = ("to_regclass", "set_config")
        own = [each for each in sent if not any(word in each for word in first_of_connection)]
        assert len(own) == 1
    assert second.linked is not None
    stored = await storage.get_rows(ledger.uid, [3, 4], full=True)
    assert [item.row for item in stored] == second.linked.rows
    assert stored[0].previous_hash == first.linked.head.receipt_hash
    assert await storage.get_batches(ledger.uid, [3]) == {3: second.linked.batch}
    assert (await storage.get_head(ledger.uid)).head == second.linked.head


async def test_a_head_that_was_not_what_was_known_is_read(storage: Storage) -> None:
    ledger = await make(storage)
    first = await append(storage, ledger, candidate("r1"))
    assert first.linked is not None
    last = first.linked.head
    for number, wrong in enumerate(
        (
            replace(last, seq=0),
            replace(last, t_ns=last.t_ns + 1),
            replace(last, receipt_hash=bytes(32)),
        )
    ):
        before = (await storage.get_head(ledger.uid)).head
        done = await append(
            storage, ledger, candidate("r1"), candidate(f"n{number}"), known_seq=0, last=wrong
        )
        assert list(done.known) == ["r1"]
        assert done.state.head == before
        assert done.linked is not None
        assert [row.seq for row in done.linked.rows] == [before.seq + 1]
    stored = await storage.get_rows(ledger.uid, [1, 2, 3, 4], full=True)
    assert [item.row.request_id for item in stored] == ["r1", "n0", "n1", "n2"]


async def test_a_request_id_that_is_there_is_found_though_nobody_looked(storage: Storage) -> None:
    ledger = await make(storage)
    first = await append(storage, ledger, candidate("r1"))
    assert first.linked is not None
    last = first.linked.head
    repeated = await append(storage, ledger, candidate("r1"), last=last)
    assert list(repeated.known) == ["r1"]
    assert repeated.linked is None
    among = await append(storage, ledger, candidate("r2"), candidate("r1"), last=last)
    assert list(among.known) == ["r1"]
    assert among.linked is not None
    stored = await storage.get_rows(ledger.uid, [1, 2, 3], full=True)
    assert [item.row.request_id for item in stored] == ["r1", "r2"]
    assert (await storage.get_head(ledger.uid)).head == among.linked.head


async def test_a_known_head_that_takes_no_more_is_read(storage: Storage) -> None:
    ledger = await make(storage)
    last = (await storage.get_head(ledger.uid)).head
    await storage.latch(ledger.uid, "because")
    done = await append(storage, ledger, candidate("r1"), known_seq=0, last=last)
    # The decision was made on what is stored, and would have refused it.
    assert done.state.read_only_reason == "because"


async def test_a_clock_far_ahead_is_for_the_database_to_judge(storage: Storage) -> None:
    ledger = await make(storage)
    last = (await storage.get_head(ledger.uid)).head
    sent = statements(storage)
    ahead = lambda: time.time_ns() + 10**12  # noqa: E731
    # `decide` sees the database's time, and stores it all the same: that is its business.
    done = await append(storage, ledger, candidate("r1"), known_seq=0, last=last, clock=ahead)
    assert done.linked is not None
    assert len(sent) > 1


async def test_a_known_head_and_rows_that_are_refused(storage: Storage) -> None:
    ledger = await make(storage)
    last = (await storage.get_head(ledger.uid)).head
    for bad in ({"batch_index": 2**70}, {"resource_id": "\ud800"}):
        with pytest.raises(RowsRefusedError):
            await append(storage, ledger, candidate("r1", **bad), known_seq=0, last=last)
    twice = candidate("r3", receipt_id=candidate("x").receipt_id)
    with pytest.raises(RowsRefusedError):
        await append(
            storage,
            ledger,
            twice,
            candidate("r4", receipt_id=twice.receipt_id),
            known_seq=0,
            last=last,
        )
    assert (await storage.get_head(ledger.uid)).head == last
    await append(storage, ledger, candidate("r1"), known_seq=0, last=last)


async def test_request_ids_belong_to_their_ledger(storage: Storage) -> None:
    one, two = await make(storage), await make(storage, info("two"))
    await append(storage, one, candidate("r1"))
    assert (await storage.find_requests(two.uid, ["r1"])).known == {}
    assert (await append(storage, two, candidate("r1"))).known == {}


async def test_nothing_is_stored_if_the_decision_raises(storage: Storage) -> None:
    ledger = await make(storage)

    def decide(state: HeadState, known: Mapping[str, Known], database_ns: int) -> Decided:
        raise KeyError("no")

    with pytest.raises(KeyError):
        await storage.append(ledger.uid, ["r1"], -1, decide)
    assert (await append(storage, ledger, candidate("r1"))).state.head.seq == 0


async def test_refused_rows_leave_nothing_behind(storage: Storage) -> None:
    ledger = await make(storage)
    first = candidate("r1")
    await append(storage, ledger, first)
    twice = candidate("r3", receipt_id=first.receipt_id)
    with pytest.raises(RowsRefusedError):
        await append(storage, ledger, candidate("r2"), twice)
    assert (await storage.get_head(ledger.uid)).head.seq == 1
    assert (await storage.find_requests(ledger.uid, ["r2"])).known == {}
    await append(storage, ledger, candidate("r2"))


@pytest.mark.parametrize("bad", [{"batch_index": 2**70}, {"resource_id": "\ud800"}])
async def test_values_no_column_can_hold_are_refused(storage: Storage, bad: Any) -> None:
    ledger = await make(storage)
    with pytest.raises(RowsRefusedError):
        await append(storage, ledger, candidate("r1", **bad))
    await append(storage, ledger, candidate("r1"))


async def test_writers_of_two_engines_take_turns(database_url: str, storage: Storage) -> None:
    other = Database.open(database_url)
    ledger = await make(storage)
    try:
        await asyncio.gather(
            *(append(storage, ledger, candidate(f"a{n}")) for n in range(25)),
            *(append(other, ledger, candidate(f"b{n}")) for n in range(25)),
        )
    finally:
        await other.close()
    assert (await storage.get_head(ledger.uid)).head.seq == 50
    rows = await storage.get_rows(ledger.uid, list(range(51)), full=False)
    assert len(rows) == 51


# --- the log -------------------------------------------------------------------------------------


async def test_runs_are_recorded_once_and_joined(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1, 20)))
    uid = ledger.uid
    assert await storage.record_runs(uid, [LogRun(0, 1, 5)], -1, "me", 1.0)
    assert not await storage.record_runs(uid, [LogRun(0, 1, 5)], -1, "me", 1.0)
    assert await storage.record_runs(uid, [LogRun(5, 6, 2), LogRun(7, 20, 2)], 4, "me", 1.0)
    assert await storage.record_runs(uid, [LogRun(9, 22, 1)], 8, "me", 1.0)
    assert (await storage.get_head(uid)).logged_seq == 9
    all_runs = [LogRun(0, 1, 7), LogRun(7, 20, 3)]
    assert await storage.log_runs(uid, 0, 19) == all_runs
    assert await storage.log_runs(uid, 6, 6) == all_runs[:1]
    assert await storage.log_runs(uid, 6, 7) == all_runs
    assert await storage.log_runs(uid, 8, 100) == all_runs[1:]


async def test_last_runs_are_replaced(storage: Storage) -> None:
    ledger, other = await make(storage), await make(storage, info("two"))
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1, 8)))
    uid = ledger.uid
    right = [LogRun(0, 1, 2)]
    assert await storage.record_runs(other.uid, [LogRun(0, 90, 1)], -1, "me", 1.0)
    wrong = [LogRun(2, 2**40, 3), LogRun(5, 2**41, 1)]
    assert await storage.record_runs(uid, [*right, *wrong], -1, "me", 1.0)
    new = [LogRun(2, 7, 1), LogRun(3, 10, 3)]
    # Not once another replica has gone on.
    assert not await storage.replace_runs(uid, new, 4)
    assert await storage.log_runs(uid, 0, 5) == [*right, *wrong]
    assert await storage.replace_runs(uid, new, 5)
    assert await storage.log_runs(uid, 0, 5) == [*right, *new]
    assert (await storage.get_head(uid)).logged_seq == 5
    assert await storage.record_runs(uid, [LogRun(6, 13, 1)], 5, "me", 1.0)
    assert await storage.log_runs(uid, 0, 6) == [*right, new[0], LogRun(3, 10, 4)]
    assert await storage.log_runs(other.uid, 0, 5) == [LogRun(0, 90, 1)]


async def test_lease_belongs_to_one_until_it_ends(storage: Storage) -> None:
    ledger = await make(storage)
    uid = ledger.uid
    assert await storage.acquire_lease(uid, "one", 0.3) is not None
    assert await storage.acquire_lease(uid, "one", 0.3) is not None
    assert await storage.acquire_lease(uid, "two", 0.3) is None
    assert await storage.find_unlogged("two") == [Unlogged(ledger, 0, -1, is_free=False)]
    assert await storage.find_unlogged("one") == [Unlogged(ledger, 0, -1, is_free=True)]
    await storage.release_lease(uid, "two")
    assert await storage.acquire_lease(uid, "two", 0.3) is None
    await eventually(lambda: storage.acquire_lease(uid, "two", 30.0))
    assert await storage.acquire_lease(uid, "one", 0.3) is None
    await storage.release_lease(uid, "two")
    assert await storage.acquire_lease(uid, "one", 30.0) is not None


async def test_whoever_begins_alone_waits_for_no_lease(tmp_path: Path) -> None:
    """On SQLite a service learns that the one before it was killed, and gave no lease back."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    killed, new, beside = (Database.open(url, reader_threads=1) for _ in range(3))
    await asyncio.to_thread(killed.migrate)
    ledger = await make(killed)
    assert await killed.acquire_lease(ledger.uid, "killed", 10.0) is not None
    await killed.close()
    await asyncio.to_thread(new.migrate)
    assert await new.acquire_lease(ledger.uid, "new", 10.0) is not None
    await asyncio.to_thread(beside.migrate)
    assert await beside.acquire_lease(ledger.uid, "beside", 10.0) is None
    await new.close()
    await beside.close()


async def test_whoever_begins_beside_one_that_is_alone_is_seen_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ended = tmp_path / "users.lock", []
    first, second, third = Presence(), Presence(), Presence()
    begun = threading.Thread(target=second.begin, args=(file, lambda: ended.append("second")))
    refused, in_vain = [], threading.Event()
    lock = second._lock

    def noted(kind: int) -> bool:
        if lock(kind):
            return True
        refused.append(kind)
        if len(refused) == 2:
            in_vain.set()
        return False

    def alone() -> None:
        begun.start()
        assert in_vain.wait(10.0), "neither lock was asked for"
        ended.append("first")

    monkeypatch.setattr(second, "_lock", noted)
    first.begin(file, alone)
    begun.join()
    first.end()
    third.begin(file, lambda: ended.append("third"))
    assert ended == ["first"]
    second.end()
    third.end()


async def test_leases_that_cannot_be_ended_now_keep_no_service_from_its_start(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    killed, new = Database.open(url, reader_threads=1), Database.open(url, reader_threads=1)
    await asyncio.to_thread(killed.migrate)
    ledger = await make(killed)
    assert await killed.acquire_lease(ledger.uid, "killed", 10.0) is not None
    await killed.close()
    with new._engine.connect() as connection:
        # Only writing fails from here on.
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE UPDATE ON heads BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        connection.commit()
    await asyncio.to_thread(new.migrate)
    with new._engine.connect() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
        connection.commit()
    assert await new.acquire_lease(ledger.uid, "new", 10.0) is None
    await new.close()


async def test_lease_of_a_clock_that_was_set_back_is_none(storage: Storage) -> None:
    """One that ends in an hour is what a lease is whose owner died before the clock was set."""
    ledger = await make(storage)
    assert await storage.acquire_lease(ledger.uid, "dead", 3600.0) is not None
    assert await storage.find_unlogged("one") == [Unlogged(ledger, 0, -1, is_free=True)]
    assert await storage.acquire_lease(ledger.uid, "one", 30.0) is not None
    assert await storage.acquire_lease(ledger.uid, "two", 30.0) is None


async def test_only_ledgers_with_work_are_found(storage: Storage) -> None:
    one, two, three = [await make(storage, info(name)) for name in ("one", "two", "three")]
    assert await storage.record_runs(two.uid, [LogRun(0, 1, 1)], -1, "me", 1.0)
    await storage.latch(three.uid, "LEDGER_FORKED")
    await storage.latch(three.uid, "LATER")
    assert await storage.find_unlogged("me") == [Unlogged(one, 0, -1, is_free=True)]
    assert (await storage.get_head(three.uid)).read_only_reason == "LEDGER_FORKED"


async def test_entries_are_rebuilt_for_the_log(storage: Storage) -> None:
    ledger = await make(storage)
    entries = []
    for start in (1, 11, 21):
        decided = await append(
            storage,
            ledger,
            *(candidate(f"r{n}", leaf_hash=bytes([n % 8]) * 32, batch_index=n % 8)
              for n in range(start, start + 10)),
        )  # fmt: skip
        assert decided.linked is not None
        entries += decided.linked.entries
    read = await storage.entries_for_log(ledger, 1, 1000, 1 << 20)
    assert list(read.entries) == entries
    assert read.state.head.seq == 30
    assert list((await storage.entries_for_log(ledger, 8, 5, 1 << 20)).entries) == entries[7:12]
    few = await storage.entries_for_log(ledger, 1, 1000, 3 * len(entries[0]))
    assert list(few.entries) == entries[: len(few.entries)]
    assert 1 <= len(few.entries) <= 3
    assert list((await storage.entries_for_log(ledger, 31, 5, 1 << 20)).entries) == []
