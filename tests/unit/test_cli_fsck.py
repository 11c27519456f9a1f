"""Rows of running services, as `log fsck` reads them while they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from provledger import jcs, logdirs, merkle
from provledger.errors import FailedPreconditionError, LogDamagedError, UnavailableError
from provledger.hashing import sha256
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    SizeRange,
    VerificationKey,
)
from provledger.revocation import Unsettled
from provledger.verify import Verifier
from provledger.witness_batch import statement_leaf_hash
from provledger_cli.connect import Remote
from provledger_cli.tlog import fsck
from provledger_cli.tlog.fsck import ServiceRows
from provledger_cli.tlog.places import Named, Place
from provledger_cli.tlog.stored import StoredHead, StoredLog
from tests.support.anchoring import Ledger
from tests.support.chain import Chain, private_key
from tests.support.tiled import MemoryFiles, signed_checkpoint, tile_files

ORIGIN = "log.example/one"


class Ledgers:
    """Ledgers of a service, by name: their receipt hashes."""

    def __init__(self) -> None:
        self.there: dict[str, list[bytes]] = {}
        self.end: Exception | None = None

    async def list_ledgers(self, **_: Any) -> AsyncIterator[Any]:
        for name, hashes in self.there.items():
            yield SimpleNamespace(
                name=name, uid=name.encode(), log_origin=ORIGIN, logged_seq=len(hashes) - 1
            )
        if self.end is not None:
            raise self.end

    async def list_summaries(self, name: str, **_: Any) -> AsyncIterator[Any]:
        for receipt_hash in self.there[name]:
            yield SimpleNamespace(receipt_hash=receipt_hash)


def test_a_ledger_that_is_made_meanwhile_has_its_rows() -> None:
    client = Ledgers()
    client.there["a"] = [b"a0", b"a1"]
    with asyncio.Runner() as runner:
        rows = ServiceRows(runner, cast(Remote, SimpleNamespace(client=client)))
        assert rows.ends(ORIGIN) == [(b"a", 1)]
        client.there["b"] = [b"b0"]
        assert rows.hashes(b"b", 0, 1) == [b"b0"]
        assert rows.hashes(b"a", 0, 1) == [b"a0"]
        assert rows.hashes(b"c", 0, 1) == [], "nobody knows it"


def test_ledgers_that_an_older_copy_lacks_have_no_rows() -> None:
    client = Ledgers()
    client.there["a"] = [b"a0"]
    with asyncio.Runner() as runner:
        rows = ServiceRows(runner, cast(Remote, SimpleNamespace(client=client)))
        client.end = FailedPreconditionError("LEDGER_BEHIND_ANCHOR", "one is missing")
        assert rows.ends(ORIGIN) == [(b"a", 0)]
        assert rows.hashes(b"b", 0, 1) == []
        client.end = UnavailableError("ANCHOR_NOT_ASKED", "nobody knows")
        with pytest.raises(UnavailableError):
            rows.ends(ORIGIN)


@pytest.mark.parametrize("sign", ["checkpoint", "tiles-elsewhere"])
def test_a_log_that_was_published_and_that_the_database_lacks_is_damage(
    tmp_path: Path, sign: str
) -> None:
    known, lost, begun = (bytes([number]) * 16 for number in range(3))
    for uid in (known, lost, begun):
        (tmp_path / uid.hex() / "scratch").mkdir(parents=True)
    for name in (known.hex(), lost.hex(), "lost+found"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / sign).touch()
    uids = logdirs.listed(tmp_path)
    assert uids == [known, lost, begun]
    with pytest.raises(LogDamagedError, match="older than the files") as caught:
        fsck.check_known(tmp_path, uids, [known])
    assert caught.value.log == f"logs/{lost.hex()}"
    (tmp_path / begun.hex() / sign).touch()
    with pytest.raises(LogDamagedError, match=f"{lost.hex()}, logs/{begun.hex()}"):
        fsck.check_known(tmp_path, uids, [known])
    (tmp_path / begun.hex() / sign).unlink()
    fsck.check_known(tmp_path, uids, [known, lost])
    (tmp_path / lost.hex() / logdirs.GIVEN_UP).touch()
    fsck.check_known(tmp_path, uids, [known])
    assert logdirs.listed(tmp_path / "none") == []


# --- a checkpoint key that was revoked ------------------------------------------------------------


GENESIS: Final = Chain().links[0][0]


class Stated(Ledger):
    """A chain whose genesis states that it is `GENESIS.ledger`."""

    def _digest(self, text: str) -> bytes:
        if text == "statement0":
            return statement_leaf_hash(self.suite, GENESIS.statement)
        return super()._digest(text)


class Stored:
    """A log of ten entries in files and rows, every head signed by the key of that label."""

    def __init__(self, signers: Sequence[str]) -> None:
        self.ledger = Stated()
        self.ledger.grow(len(signers) - 1)
        self.entries = [jcs.encode({"log": {"origin": ORIGIN, "v": "1"}}), *self.ledger.entries]
        self.notes = {
            size: signed_checkpoint(ORIGIN, self.entries[:size], signer)
            for size, signer in enumerate(signers, 1)
        }
        self.roots = {size: self.root(size) for size in self.notes}
        self.named = Named(GENESIS.ledger, ORIGIN, GENESIS.statement)

    def root(self, size: int) -> bytes:
        return merkle.root(self.entries[:size])

    def forge(self, size: int, signer: str) -> None:
        """Put a head of another tree into a row, signed by that key."""
        other = [b"another"] * size
        self.notes[size] = signed_checkpoint(ORIGIN, other, signer)
        self.roots[size] = merkle.root(other)

    def log(self, uid: bytes) -> StoredLog:
        last = len(self.ledger.entries) - 1
        place = Place("blake3", last, self.ledger.hash_of(last), last + 1, 0)
        return StoredLog(
            uid,
            ORIGIN,
            "blake3",
            len(self.entries),
            self.root(len(self.entries)),
            0,
            self.entries,
            {self.ledger.uid: place},
            1,
        )

    def runs(
        self, uid: bytes, ledger_uid: bytes, start_seq: int, count: int
    ) -> list[tuple[int, int]]:
        return [(0, 1)] if start_seq == 0 else []

    def unsigned_size(self, uid: bytes, shown: int) -> int | None:
        return None

    def genesis(self, ledger_uid: bytes) -> Named | None:
        return self.named

    def published_size(self, uid: bytes) -> int:
        return len(self.entries)

    def heads(self, uid: bytes, upto: int) -> Iterator[StoredHead]:
        for size, signed in self.notes.items():
            yield StoredHead(size, self.roots[size], signed)

    def ends(self, origin: str) -> list[tuple[bytes, int]]:
        return [(self.ledger.uid, len(self.ledger.entries) - 1)]

    def hashes(self, uid: bytes, start_seq: int, count: int) -> list[bytes | None]:
        return [self.ledger.hash_of(seq) for seq in range(start_seq, start_seq + count)]

    def check(
        self,
        *covered: CoveredCheckpoint,
        published: bool = False,
        ended: KeyState = KeyState.REVOKED,
        sizes: tuple[SizeRange, ...] = (),
    ) -> fsck.Checked:
        """Under the keys of a log, the first revoked after what is covered, or retired."""
        keys = KeySet(
            VerificationKey.from_public_key(
                private_key(kid).public_key(),
                kid=kid,
                purpose=KeyPurpose.CHECKPOINT,
                epoch=epoch,
                state=state,
                revocation_reason="stolen" if state is KeyState.REVOKED else "",
                covered=covered if state is KeyState.REVOKED else (),
                sizes=sizes if state is KeyState.RETIRED else (),
            )
            for epoch, (kid, state) in enumerate(
                [("checkpoint-1", ended), ("checkpoint-2", KeyState.ACTIVE)], 1
            )
        )
        size = len(self.entries)
        files: Any = MemoryFiles(tile_files(self.entries) | {"checkpoint": self.notes[size]})
        if published:
            ends = self.ends(ORIGIN)
            return fsck.check_published(
                files, ORIGIN, sha256, size, ends, self, keys, lambda done, total: None
            )
        return fsck.check_stored(
            cast(Any, self), b"log", files, self, keys, lambda done, total: None
        )


@pytest.fixture
def stored() -> Stored:
    """Seven heads of the key that was stolen, then three of its successor."""
    return Stored(["checkpoint-1"] * 7 + ["checkpoint-2"] * 3)


def test_heads_of_a_revoked_key_hold_up_to_the_one_that_is_named(stored: Stored) -> None:
    named = CoveredCheckpoint(ORIGIN, 7, stored.root(7))
    checked = stored.check(named)
    assert (checked.signatures, checked.unvouched, checked.size) == (True, 0, 10)
    assert stored.check(named, published=True).signatures


@pytest.mark.parametrize("named_size", [4, 0])
def test_heads_that_a_revoked_key_does_not_stand_for_are_counted(
    stored: Stored, named_size: int
) -> None:
    """The thief's, or of before anybody knew; or the revocation names nothing of this log."""
    named = CoveredCheckpoint(ORIGIN, 4, stored.root(4))
    assert stored.check(*[named] * bool(named_size)).unvouched == 7 - named_size


def test_heads_of_a_key_that_was_retired_while_the_log_was_away_are_counted(
    stored: Stored,
) -> None:
    """Its retirement names the logs that it signed then, and this one not among them."""
    others = (SizeRange("log.example/two", 1, 9),)
    assert stored.check(ended=KeyState.RETIRED, sizes=others).unvouched == 7
    stored.forge(3, "checkpoint-1")
    with pytest.raises(LogDamagedError, match="tree size 3"):
        stored.check(ended=KeyState.RETIRED, sizes=others)


def test_what_revoked_keys_signed_is_not_kept(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many as the log signed, and it may have done so for years."""
    kept: list[Unsettled] = []
    monkeypatch.setattr(Verifier, "leave_unsettled", keeping(kept))
    assert stored.check(CoveredCheckpoint(ORIGIN, 7, stored.root(7))).unvouched == 0
    assert [len(each) for each in kept] == [0]


def keeping(kept: list[Unsettled]) -> Callable[[Verifier, Unsettled], None]:
    leave = Verifier.leave_unsettled

    def leave_unsettled(verifier: Verifier, unsettled: Unsettled) -> None:
        kept.append(unsettled)
        leave(verifier, unsettled)

    return leave_unsettled


@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_head_of_another_tree_by_a_revoked_key_is_damage(stored: Stored, size: int) -> None:
    named = CoveredCheckpoint(ORIGIN, 4, stored.root(4))
    stored.forge(size, "checkpoint-1")
    with pytest.raises(LogDamagedError):
        stored.check(named)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("size", [7, 11])
def test_a_log_without_the_checkpoint_that_is_named_is_damage(
    stored: Stored, size: int, published: bool
) -> None:
    """It is of another history than what others hold, or an older copy."""
    named = CoveredCheckpoint(ORIGIN, size, merkle.root([b"another"] * size))
    # Under the new key only: no head of the old one has to be of one history with it.
    stored.notes = {size: signed for size, signed in stored.notes.items() if size > 7}
    with pytest.raises(LogDamagedError, match="checkpoint-1 was revoked after"):
        stored.check(named, published=published)


def test_heads_of_a_key_that_nobody_knows_are_damage(stored: Stored) -> None:
    stored.notes[5] = signed_checkpoint(ORIGIN, stored.entries[:5], "witness-1")
    with pytest.raises(LogDamagedError, match=r"size 5.*not signed by a log key"):
        stored.check(CoveredCheckpoint(ORIGIN, 7, stored.root(7)))
