"""`provledger load --check`: what was acknowledged, against what the ledgers say at the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provledger.errors import (
    CancelledError,
    DataLossError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    ProvledgerError,
    StatusError,
    UnavailableError,
    UnimplementedError,
)
from provledger.receipt import Receipt
from provledger_cli.connect import Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.load import recall
from provledger_cli.load.fleet import LINE_BYTES, Fleet
from provledger_cli.load.judge import Finding
from provledger_cli.load.kept import BLOCK, SAMPLE, Acknowledged, Kept, Recall
from tests.support.chain import key_set, sample_chain

LEDGER = "tenants/acme/ledgers/main"


def _hash(seq: int) -> bytes:
    return hashlib.sha256(str(seq).encode()).digest()


def _keep(*seqs: int) -> Kept:
    kept, rng = Kept(), random.Random(7)
    for seq in seqs:
        kept.add(Acknowledged(f"r/{seq}", seq, _hash(seq).hex()), 1000 + seq, rng)
    return kept


def _sum(*parts: Kept) -> Kept:
    """As the parent has it, from several processes."""
    whole = Kept()
    for part in parts:
        whole.merge(json.loads(json.dumps(part.to_json())))
    return whole


def _problems(kept: Kept, listed: Any) -> str:
    recalled = Recall(kept)
    for seq in listed:
        recalled.see(seq, _hash(seq))
    return "; ".join(recalled.problems())


def test_all_that_several_processes_kept_is_found_among_what_others_sent() -> None:
    kept = _sum(_keep(*range(1, 5000, 3)), _keep(*range(2, 5000, 3)))
    assert (kept.count, kept.highest_seq, kept.start_t_ns) == (3333, 4999, 1001)
    assert _problems(kept, range(5000)) == ""


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        (range(2999), "1 of them are not there, the first is seq 2999"),
        (range(BLOCK), "1976 of them are not there, the first is seq 1024"),
        ((), "2999 of them are not there, the first is seq 1"),
        ([*range(5), *range(6, 3000)], "seq 6 is listed after seq 4"),
        ([*range(5), *range(6, 3000)], "1 of them are not there, the first is seq 5"),
        ([*range(5), 5, *range(5, 3000)], "seq 5 is listed after seq 5"),
    ],
)
def test_what_is_not_there_is_named(listed: Any, named: str) -> None:
    assert named in _problems(_sum(_keep(*range(1, 3000))), listed)


def test_another_receipt_in_the_place_of_one_is_named() -> None:
    recalled = Recall(_keep(*range(2000)))
    for seq in range(2000):
        recalled.see(seq, _hash(seq + (seq == 1500)))
    assert recalled.problems() == ["of seq 1024 to 2047 some are others than were acknowledged"]


def test_of_a_list_that_was_cut_off_nothing_is_said_of_what_would_have_come() -> None:
    kept = _keep(*range(1, 3000))
    for listed, problems in [
        (range(1500), []),
        ((), []),
        (
            [*range(5), *range(6, 1030)],
            [
                "seq 6 is listed after seq 4",
                "1 of them are not there, the first is seq 5",
            ],
        ),
    ]:
        recalled = Recall(kept)
        for seq in listed:
            recalled.see(seq, _hash(seq))
        assert recalled.problems(cut_off=True) == problems
    recalled = Recall(kept)
    for seq in range(1500):
        recalled.see(seq, _hash(seq + (seq == 7)))
    (problem,) = recalled.problems(cut_off=True)
    assert "of seq 0 to 1023 some are others" in problem


def test_a_place_that_was_acknowledged_twice_is_named() -> None:
    """To one process, and to two."""
    named = "seq 1030 was acknowledged for two drafts"
    assert _problems(_keep(*range(1031), 1030), range(1031)) == named
    assert _problems(_sum(_keep(*range(1031)), _keep(1030)), range(1031)) == named


def test_what_is_kept_does_not_grow_with_what_is_sent() -> None:
    """But for a bit of each."""
    kept = _keep(*range(100_000))
    assert (len(kept.sample), len(kept.newest)) == (SAMPLE, SAMPLE)
    assert kept.newest[-1].seq == 99_999
    assert max(each.seq for each in kept.sample) > 1000, "not only the first"
    assert len(json.dumps(kept.to_json())) < 100_000


_TELLS = """
import random, sys
from provledger_cli.load import worker
from provledger_cli.load.kept import Acknowledged, Kept
rng, kept = random.Random(7), {}
for tenant in range(1300):
    one = kept[f"tenants/tenant-{tenant:04d}/ledgers/load"] = Kept()
    for seq in range(1, 101):
        name = f"tenants/tenant-{tenant:04d}/ledgers/load/receipts/{seq}"
        one.add(Acknowledged(name, seq, f"{rng.getrandbits(256):064x}"), 1000 + seq, rng)
sys.stdin.readline()
worker.say_kept(kept)
"""


async def test_client_processes_tell_of_any_number_of_ledgers() -> None:
    """All together are more than a line may be long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TELLS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
    )
    fleet = Fleet(1, {})
    fleet._processes.append(process)
    kept: dict[str, Kept] = {}
    try:
        await fleet.kept(kept)
    finally:
        await fleet._stop()
    assert len(kept) == 1300
    assert {(each.count, each.highest_seq) for each in kept.values()} == {(100, 100)}
    told = json.dumps({name: each.to_json() for name, each in kept.items()})
    assert len(told) > LINE_BYTES


class _Ledger:
    """A ledger's answers, and its keys'. `error`: to all; `fails`: to what, by method."""

    def __init__(
        self,
        receipts: list[Receipt],
        error: ProvledgerError | None = None,
        fails: Mapping[str, ProvledgerError] | None = None,
    ) -> None:
        self._receipts = receipts
        self._error = error
        self._fails = fails or {}

    async def __aenter__(self) -> _Ledger:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def list_summaries(self, *_: object, **__: object) -> AsyncIterator[Receipt]:
        if self._error is not None:
            raise self._error
        for receipt in self._receipts:
            yield receipt
            if "list_summaries" in self._fails and receipt.seq >= 5:
                raise self._fails["list_summaries"]

    async def get_receipt(self, name: str) -> Receipt:
        if "get_receipt" in self._fails and name == self._receipts[-1].name:
            raise self._fails["get_receipt"]
        for receipt in self._receipts:
            if receipt.name == name:
                return receipt
        raise NotFoundError("RECEIPT_NOT_FOUND", "there is no such receipt")

    async def jwks(self) -> bytes:
        if "jwks" in self._fails:
            raise self._fails["jwks"]
        return key_set().encode()


def _without(seq: int) -> Callable[[list[Receipt]], list[Receipt]]:
    return lambda receipts: [each for each in receipts if each.seq != seq]


def _damaged(receipts: list[Receipt]) -> list[Receipt]:
    return [*receipts[:-1], replace(receipts[-1], kid="another")]


@pytest.mark.parametrize(
    ("change", "error", "keys", "word", "said"),
    [
        (list, None, True, "holds", "8 receipts up to seq 8 are there, 8 of them read back and"),
        (list, None, False, "could not tell", "none was verified"),
        (_without(3), None, True, "does not hold", "seq 3 is refused: RECEIPT_NOT_FOUND"),
        (_without(3), None, False, "does not hold", "the first is seq 3"),
        (_damaged, None, True, "does not hold", "seq 8 does not verify"),
        (list, UnavailableError("X", "it is away"), True, "could not tell", "it is away"),
        (
            list,
            FailedPreconditionError("RESTORED_BEHIND", "restored"),
            True,
            "does not hold",
            "RESTORED_BEHIND: restored",
        ),
    ],
)
def test_the_ledgers_are_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    error: ProvledgerError | None,
    keys: bool,
    word: str,
    said: str,
) -> None:
    found = _found(tmp_path, monkeypatch, change, error, keys=keys)
    assert (found.check, found.word) == (f"acknowledged by {LEDGER}", word)
    assert said in found.detail


def _found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[Receipt]], list[Receipt]],
    error: ProvledgerError | None = None,
    fails: Mapping[str, ProvledgerError] | None = None,
    *,
    keys: bool = True,
) -> Finding:
    """About a ledger that acknowledged seq 1 to 8, and now answers otherwise."""
    receipts = sample_chain().receipts()
    kept, rng = Kept(), random.Random(7)
    for each in receipts[1:]:
        kept.add(Acknowledged(each.name, each.seq, each.receipt_hash.hex()), each.t_ns, rng)
    ledger = _Ledger(change(receipts), error, fails)
    monkeypatch.setattr(recall, "AsyncClient", lambda *_, **__: ledger)
    addresses = {"ledger": "a:1", **({"keys": "a:2"} if keys else {})}
    where = Target(DataDir.at(tmp_path), addresses, False)
    (found,) = asyncio.run(recall.recall(where, {LEDGER: _sum(kept)}, 1.0))
    return found


@pytest.mark.parametrize("away", ["list_summaries", "get_receipt", "jwks"])
def test_what_is_lost_is_lost_though_the_rest_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    fails = {away: UnavailableError("X", "it is away")}
    whole = _found(tmp_path, monkeypatch, list, fails=fails)
    assert (whole.word, "it is away" in whole.detail) == ("could not tell", True)
    found = _found(tmp_path, monkeypatch, _without(3), fails=fails)
    assert found.word == "does not hold"
    assert "1 of them are not there, the first is seq 3" in found.detail
    assert found.detail.endswith("could not tell of the rest: it is away")


@pytest.mark.parametrize(
    ("away", "error", "word"),
    [
        *(
            (away, error, "could not tell")
            for away in ("list_summaries", "get_receipt")
            for error in (
                UnimplementedError("X", "it is away"),
                CancelledError("X", "it is away"),
                InternalError("X", "it is away"),
                StatusError("X", "it is away"),
            )
        ),
        ("list_summaries", NotFoundError("X", "it is away"), "does not hold"),
        ("get_receipt", DataLossError("X", "it is away"), "does not hold"),
        # Whatever the keys service says is not about receipts.
        ("jwks", NotFoundError("X", "it is away"), "could not tell"),
        ("jwks", FailedPreconditionError("X", "it is away"), "could not tell"),
        ("jwks", DataLossError("X", "it is away"), "could not tell"),
    ],
)
def test_only_a_definite_answer_of_the_ledger_is_a_denial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str, error: StatusError, word: str
) -> None:
    found = _found(tmp_path, monkeypatch, list, fails={away: error})
    assert found.word == word, found
