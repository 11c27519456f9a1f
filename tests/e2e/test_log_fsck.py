"""`log fsck` on a real installation: running and stopped, whole and damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from provledger.errors import LogDamagedError
from provledger.keyset import KeySet
from provledger_cli.embedded import config
from provledger_cli.tlog import fsck
from provledger_cli.tlog.logfiles import DirFiles
from provledger_cli.tlog.stored import AnchorRows, LedgerRows, open_database
from tests.e2e.commands import Installation, shipped_mutations
from tests.support.tiled import flip


def check(own: Installation, keys: KeySet) -> fsck.Checked:
    """What the command does with a data directory, in this process."""
    settled = config.load(own.data)
    assert settled is not None
    anchor = AnchorRows(open_database(own.data, settled, "anchor"))
    rows = LedgerRows(open_database(own.data, settled, "ledger"))
    try:
        (uid,) = anchor.log_uids()
        files = DirFiles(own.data.tiles / "logs" / uid.hex())
        return fsck.check_stored(anchor, uid, files, rows, keys, lambda done, total: None)
    finally:
        anchor.close()
        rows.close()


def execute(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_a_log_is_checked_while_it_runs_and_when_it_stands_still(own: Installation) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:300]))
    own.run("import", "m.ndjson", "--tenant", "demo", "--batch", "20")
    own.run("keys", "jwks", "--out", "jwks.json")
    while_running = own.run("log", "fsck").json
    (log_dir,) = (own.data.tiles / "logs").iterdir()
    by_services = own.run("log", "fsck", "--tiles", str(log_dir)).json
    own.run("down")
    # No service runs: the keys are those of the stored key ledger, from its pin on.
    replayed = own.run("log", "fsck").json
    assert (replayed["holds"], replayed["logs"][0]["signatures"]) == (True, "hold")
    pin = own.data.path / "key-ledger.pin"
    wrong = own.run("log", "fsck", "--pin", "0" * 64, check=False)
    assert (wrong.code, wrong.json["check"]) == (1, "key_ledger")
    # An event whose content is gone is not passed over; nor is one that is called something else.
    events = own.data.databases / "ledger.sqlite3"
    whole = events.read_bytes()
    of_keys = "ledger_uid = (SELECT ledger_uid FROM ledgers WHERE ledger = 'keys') AND seq = 1"
    for change, code in (
        ("payload = x''", 1),
        ("payload = x'7b7d'", 1),
        ("receipt_type = 'x'", 2),
    ):
        execute(events, f"UPDATE entries SET {change} WHERE {of_keys}")
        assert own.run("log", "fsck", check=False).code == code
        events.write_bytes(whole)
        for left in ("-wal", "-shm"):
            events.with_name(f"{events.name}{left}").unlink(missing_ok=True)
    pinned = pin.read_text().strip()
    pin.unlink()
    assert own.run("log", "fsck", "--pin", pinned).json["holds"] is True
    unsigned = own.run("log", "fsck", check=False)
    assert unsigned.code == 2
    assert unsigned.json["logs"][0]["signatures"] == "not_checked"
    assert while_running["holds"] is by_services["holds"] is True
    (stopped,) = own.run("log", "fsck", "--keys", "jwks.json").json["logs"]
    assert stopped["tree_size"] >= 302
    assert stopped["entry_bundles"] == 2
    assert stopped["hash_tiles"] >= 3
    assert stopped["checkpoints"] > 1

    # From here on damage, one thing at a time, each put right again.
    keys = KeySet.parse((own.work / "jwks.json").read_bytes())
    assert check(own, keys).size == stopped["tree_size"]
    for path in sorted(each for each in log_dir.rglob("*") if each.is_file()):
        data = path.read_bytes()
        path.write_bytes(flip(data, len(data) // 2, 2))
        with pytest.raises(LogDamagedError) as caught:
            check(own, keys)
        if path.name != "checkpoint":
            assert caught.value.path == str(path.relative_to(log_dir))
        path.write_bytes(data)
    ledger, anchor = (own.data.databases / f"{name}.sqlite3" for name in ("ledger", "anchor"))
    # What was published stays published, whatever is left of the tiles beneath it.
    published = (log_dir / "checkpoint").read_bytes()
    with closing(sqlite3.connect(anchor)) as connection:
        (old,) = connection.execute("SELECT note FROM checkpoints WHERE size = 1").fetchone()
    for gone in (None, old):
        (log_dir / "checkpoint").unlink(missing_ok=True)
        if gone is not None:
            (log_dir / "checkpoint").write_bytes(gone)
        with pytest.raises(LogDamagedError, match="it was lost or put back"):
            check(own, keys)
    (log_dir / "checkpoint").write_bytes(published)

    def damaged(path: Path, statement: str, match: str, *values: object) -> None:
        whole = path.read_bytes()
        execute(path, statement, *values)
        with pytest.raises(LogDamagedError, match=match):
            check(own, keys)
        for left in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            left.unlink(missing_ok=True)
        path.write_bytes(whole)

    demo = "ledger_uid = (SELECT ledger_uid FROM ledgers WHERE tenant = 'demo')"
    with closing(sqlite3.connect(ledger)) as connection:
        (uid,) = connection.execute("SELECT hex(ledger_uid) FROM ledgers WHERE tenant = 'demo'")
    of_demo = f"ledger_uid = x'{uid[0]}'"
    cases: list[tuple[Path, str, str]] = [
        (ledger, f"DELETE FROM entries WHERE seq = 7 AND {demo}", "has no receipt 7"),
        (
            ledger,
            f"UPDATE entries SET receipt_hash = zeroblob(32) WHERE seq = 9 AND {demo}",
            "has another receipt 9",
        ),
        (
            ledger,
            f"UPDATE heads SET logged_seq = logged_seq + 1 WHERE {demo}",
            "counts receipts up to 301 as logged",
        ),
        # Its rows are all there, and nobody who asks for it by name finds them.
        (ledger, "DELETE FROM ledgers WHERE tenant = 'demo'", "has no receipt 0"),
        (ledger, f"DELETE FROM heads WHERE {demo}", "has no receipt 0"),
        (
            anchor,
            "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 1) "
            "WHERE size = (SELECT max(size) FROM checkpoints)",
            "does not say what its row does",
        ),
        (
            anchor,
            "UPDATE checkpoints SET root = zeroblob(32), note = NULL "
            "WHERE size = (SELECT max(size) FROM checkpoints)",
            "do not make the root of the stored checkpoint",
        ),
        # Of what leads to it, and of what others have of it.
        (ledger, f"UPDATE ledgers SET tenant = 'moved' WHERE {demo}", "states tenants/demo/"),
        (ledger, f"UPDATE ledgers SET log_origin = 'x/y' WHERE {demo}", "has no receipt 0|in x/y"),
        (
            ledger,
            f"UPDATE entries SET statement = x'7b7d' WHERE seq = 0 AND {demo}",
            "another genesis",
        ),
        (anchor, "UPDATE logs SET root = zeroblob(32)", "the root that logs has"),
        (anchor, f"DELETE FROM ledgers WHERE {of_demo}", "ledgers does not end where"),
        (
            anchor,
            f"UPDATE ledgers SET suite = 'fips' WHERE {of_demo}",
            "ledgers does not end where",
        ),
        (anchor, f"UPDATE ledgers SET seq = seq - 1 WHERE {of_demo}", "ledgers does not end where"),
        (
            anchor,
            "INSERT INTO ledgers SELECT log_uid, x'00', suite, 0, receipt_hash, log_index, 0, NULL "
            f"FROM ledgers WHERE {of_demo}",
            "names an entry that the log does not have",
        ),
        (anchor, f"DELETE FROM runs WHERE start_seq = 0 AND {of_demo}", "not where runs has it"),
        (
            anchor,
            f"UPDATE runs SET start_index = start_index + 1 WHERE start_seq = 0 AND {of_demo}",
            "not where runs has it",
        ),
        (
            anchor,
            "INSERT INTO runs SELECT log_uid, ledger_uid, 5000, 5000 FROM runs "
            f"WHERE start_seq = 0 AND {of_demo}",
            "but its entries make",
        ),
        (
            anchor,
            "UPDATE checkpoints SET note = NULL WHERE published_at_ns NOT NULL AND size = "
            "(SELECT min(size) FROM checkpoints WHERE published_at_ns NOT NULL)",
            "has none that is signed",
        ),
        (
            anchor,
            "DELETE FROM checkpoints WHERE size = (SELECT min(size) FROM anchors)",
            "has none that is signed",
        ),
        (
            anchor,
            "DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)",
            "of tree size|has none that is signed",
        ),
        (
            anchor,
            "DELETE FROM entries WHERE start_index = (SELECT max(start_index) FROM entries)",
            "are missing or cannot be read",
        ),
    ]
    for path, statement, match in cases:
        damaged(path, statement, match)
    assert check(own, keys).size == stopped["tree_size"]
    forged = _with_flipped_signature(log_dir)
    with pytest.raises(LogDamagedError, match="not signed by a log key"):
        check(own, keys)
    told = own.run("log", "fsck", "--keys", "jwks.json", check=False)
    assert (told.code, told.json["log"]) == (1, f"logs/{log_dir.name}")
    forged()
    # A log that was published, and that the database has forgotten.
    lost = log_dir.with_name("ab" * 16)
    lost.mkdir()
    (lost / "checkpoint").write_bytes(published)
    for arguments in ((), ("--log", lost.name)):
        told = own.run("log", "fsck", *arguments, "--keys", "jwks.json", check=False)
        assert (told.code, told.json["log"]) == (1, f"logs/{lost.name}")
    assert own.run("backup", "--out", "b.tar", check=False).code == 1
    # Those that it knows are checked all the same.
    forged = _with_flipped_signature(log_dir)
    told = own.run("log", "fsck", "--keys", "jwks.json", check=False)
    assert (told.code, told.json["log"]) == (1, f"logs/{log_dir.name}")
    assert lost.name in told.talk
    forged()
    (lost / "given-up").touch()
    assert own.run("log", "fsck", "--keys", "jwks.json").json["holds"] is True
    assert own.run("backup", "--out", "b.tar").code == 0


def _with_flipped_signature(log_dir: Path) -> Callable[[], int]:
    """Change one bit of the published checkpoint's signature; puts it right again when called."""
    path = log_dir / "checkpoint"
    whole = path.read_bytes()
    at = whole.rindex(b" ") + 20
    path.write_bytes(whole[:at] + (b"A" if whole[at : at + 1] != b"A" else b"B") + whole[at + 1 :])
    return lambda: path.write_bytes(whole)
