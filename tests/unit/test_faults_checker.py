"""The checker of tests/faults finds what it is there to find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provledger import dsse, merkle
from provledger.head import PAYLOAD_TYPE, parse_head
from provledger.receipt import Proof
from tests.faults import record
from tests.faults.checker import UNRECORDED, BrokenInvariantError, check
from tests.faults.known import (
    Contradicted,
    Headed,
    History,
    Holdings,
    Refused,
    Summary,
)
from tests.faults.lists import Place
from tests.support.chain import Chain, mutation, private_key, sample_chain
from tests.support.fault_world import (
    LEDGER,
    SINKS,
    Change,
    holdings_of,
    receipt_changed,
    world,
)


def test_what_is_whole_holds() -> None:
    history, holdings = world()
    count = len(holdings.receipts[LEDGER])
    assert check(history, holdings) == Summary(count, count - 1, count - 1, count + 1, count, 1, 2)


def test_a_record_holds_what_was_sent(tmp_path: Path) -> None:
    history, _ = world()
    kept = record.Record(tmp_path / "record")
    kept.sent(history.sent.values())
    kept.acknowledged(history.acknowledged)
    kept.refused(Refused(LEDGER, "r", "INTERNAL", "", ""))
    for note in history.checkpoints:
        kept.checkpoint(note)
    for told in history.anchored:
        kept.anchored(told)
    for head in history.heads:
        kept.head(head)
    wrong = Contradicted("logs/-", "is older")
    kept.contradicted(wrong)
    kept.close()
    refused = (Refused(LEDGER, "r", "INTERNAL", "", ""),)
    assert record.read(kept.path) == dataclasses.replace(
        history, refused=refused, contradicted=(wrong,)
    )
    assert kept.sizes == {sample_chain().origin: 10}


def _without_last(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])[:-1]
    return history, dataclasses.replace(
        holdings, receipts={LEDGER: receipts}, leaves=list(holdings.leaves)[:-1]
    )


def _without_middle(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = [each for each in holdings.receipts[LEDGER] if each.seq != 3]
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _doubled(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    return history, dataclasses.replace(holdings, receipts={LEDGER: [*receipts, receipts[-1]]})


def _acknowledged_elsewhere(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    first, *rest = history.acknowledged
    moved = dataclasses.replace(first, seq=first.seq + 1)
    return dataclasses.replace(history, acknowledged=(moved, *rest)), holdings


def _acknowledged_and_gone(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    lost = dataclasses.replace(history.acknowledged[0], request_id="lost")
    return dataclasses.replace(history, acknowledged=(*history.acknowledged, lost)), holdings


def _never_sent(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    sent = dict(list(history.sent.items())[1:])
    return dataclasses.replace(history, sent=sent), holdings


def _refused(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    item = Refused(LEDGER, "r", "INTERNAL", "", "")
    return dataclasses.replace(history, refused=(item,)), holdings


def _forked(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    chain = sample_chain()
    fork = chain.checkpoint(5, leaves=[*chain.leaves[:4], b"another entry"])
    return dataclasses.replace(history, checkpoints=(*history.checkpoints, fork)), holdings


def _rolled_back(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    chain = sample_chain()
    later = chain.checkpoint(len(chain.leaves) + 1, leaves=[*chain.leaves, b"one more"])
    return dataclasses.replace(history, checkpoints=(*history.checkpoints, later)), holdings


def _forged_checkpoint(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    note = bytearray(history.checkpoints[-1])
    note[-4] ^= 1
    return dataclasses.replace(history, checkpoints=(bytes(note),)), holdings


def _log_out_of_order(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    leaves = list(holdings.leaves)
    leaves[2], leaves[3] = leaves[3], leaves[2]
    return history, dataclasses.replace(holdings, leaves=leaves)


def _damaged_receipt(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    receipts[2] = dataclasses.replace(receipts[2], kid="another")
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _leaf_changed(index: int, leaf: bytes) -> Change:
    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        leaves = list(holdings.leaves)
        leaves[index] = leaf
        return history, dataclasses.replace(holdings, leaves=leaves)

    return change


def _leaf_of_another_ledger(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    other = sample_chain(ledger="another").leaves[1]
    return history, dataclasses.replace(holdings, leaves=[*holdings.leaves, other])


def _not_all_in_the_log(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    return history, dataclasses.replace(holdings, leaves=list(holdings.leaves)[:-1])


def _proven_elsewhere(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    """Beside the proof of where it is."""
    receipts = list(holdings.receipts[LEDGER])
    proofs = (*receipts[2].proofs, *receipts[3].proofs)
    receipts[2] = dataclasses.replace(receipts[2], proofs=proofs)
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _proven_in_a_fork(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    """All but one are shown in a checkpoint that is larger than the log, and that nobody noted."""
    chain = sample_chain()
    forked = [chain.leaves[0], b"another entry", *chain.leaves[2:], b"and one more"]
    paths = merkle.inclusion_proofs(merkle.leaf_hashes(forked))
    shown = chain.checkpoint(len(forked), leaves=forked)
    receipts = [
        each
        if (index := each.proofs[0].log_index) == 1
        else dataclasses.replace(
            each, proofs=(Proof(chain.origin, index, tuple(paths[index]), shown),)
        )
        for each in holdings.receipts[LEDGER]
    ]
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _of_two_logs(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    other = sample_chain(origin="provledger.test/another").checkpoint()
    return dataclasses.replace(history, checkpoints=(*history.checkpoints, other)), holdings


def _nothing_outside(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    """Whoever reads the log finds one, and no sink has one of all."""
    notes = {sink: sunk[:1] for sink, sunk in holdings.sunk.items()}
    return history, dataclasses.replace(holdings, sunk=notes, evidence={})


def _not_in_the_second(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    """Which has an older one, and is not said to have another."""
    first, second = SINKS
    sunk = {**holdings.sunk, second: holdings.sunk[second][:1]}
    kept = {first: holdings.evidence[first]}
    return history, dataclasses.replace(holdings, sunk=sunk, evidence=kept)


def _no_sink(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    return history, dataclasses.replace(holdings, sunk={}, evidence={})


def _kept(sink: str, size: int) -> Change:
    """There is evidence of something else."""

    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        return history, dataclasses.replace(holdings, evidence={sink: {size}})

    return change


def _told(**changes: Any) -> Change:
    """Something else was said to be anchored."""

    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        told = dataclasses.replace(history.anchored[0], **changes)
        return dataclasses.replace(history, anchored=(told,)), holdings

    return change


def _anchored_by_what_is_published(
    history: History, holdings: Holdings
) -> tuple[History, Holdings]:
    """Readers of the log find that checkpoint, the sinks a larger log's."""
    return _told(checkpoint=history.checkpoints[4])(history, holdings)


def _never_sent_to(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    """A whole ledger of which nobody knows."""
    return History({}, ()), holdings


def _range(**changes: Any) -> Change:
    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        said = dataclasses.replace(holdings.ranges[LEDGER], **changes)
        return history, dataclasses.replace(holdings, ranges={LEDGER: said})

    return change


def _no_range(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    return history, dataclasses.replace(holdings, ranges={})


def _without_genesis(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    return world(_InvertedChain())


class _InvertedChain(Chain):
    """One whose first receipt is a mutation, and the second the genesis."""

    def append(self, items: Any, **options: Any) -> None:
        if not self.links:
            super().append([mutation(0)])
            items = [("ledger.created", {"previousState": None, "newState": None})]
        super().append(items, **options)


def _no_proof(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    receipts[2] = dataclasses.replace(receipts[2], proofs=())
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _headed(size: int = 0, *, leaves: list[bytes] | None = None, **changes: Any) -> Change:
    """The newest head was shown with something else in it, and with a checkpoint of `size`."""

    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        chain = sample_chain()
        head = parse_head(dsse.decode(chain.head()).payload)
        body = dataclasses.replace(head, **changes).encode()
        signature = private_key("head-1").sign(dsse.pae(PAYLOAD_TYPE, body))
        signed = dsse.Envelope(PAYLOAD_TYPE, body, (dsse.Signature("head-1", signature),))
        note = chain.checkpoint(size or head.size, leaves=leaves)
        shown = Headed(LEDGER, dsse.encode(signed), note)
        return dataclasses.replace(history, heads=(shown,)), holdings

    return change


def _forged_head(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    shown = history.heads[0]
    signed = dsse.decode(shown.head)
    forged = dsse.encode(dataclasses.replace(signed, payload=signed.payload[:-1] + b" }"))
    heads = (dataclasses.replace(shown, head=forged),)
    return dataclasses.replace(history, heads=heads), holdings


def _head_of_another_log() -> Headed:
    other = sample_chain(origin="provledger.test/another")
    return Headed(LEDGER, other.head(), other.checkpoint())


def _headed_by(*heads: Headed) -> Change:
    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        return dataclasses.replace(history, heads=heads), holdings

    return change


def _head_with_a_forked_checkpoint(
    history: History, holdings: Holdings
) -> tuple[History, Holdings]:
    """Of a tree that the log never was, which the head says as well."""
    chain = sample_chain()
    leaves = [*chain.leaves[:2], b"another entry", *chain.leaves[3:5]]
    root = merkle.root(leaves)
    note = {"size": 5, "leaves": leaves}
    newest = chain.links[3][0]
    said = {"seq": 3, "log_index": 4, "receipt_hash": newest.receipt_hash}
    return _headed(**note, **said, root=root)(history, holdings)  # type: ignore[arg-type]


def _contradicted(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    told = (Contradicted("logs/-", "shows tree size 3 after 4 had been shown"),)
    return dataclasses.replace(history, contradicted=told), holdings


def _listed(word: str, of: Callable[[list[Place]], list[Place]]) -> Change:
    """Lists by one condition are others."""

    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        lists = dict(holdings.lists[LEDGER])
        lists |= {where: of(list(lists[where])) for where in lists if getattr(where, word)}
        return history, dataclasses.replace(holdings, lists={LEDGER: lists})

    return change


def _no_lists(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    return history, dataclasses.replace(holdings, lists={})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_without_last, "was acknowledged as seq"),
        (_without_last, "ROLLED BACK"),
        (_without_middle, "stands where seq 3 should be"),
        (_doubled, "is there 2 times"),
        (_acknowledged_elsewhere, "was acknowledged as"),
        (_acknowledged_and_gone, "lost: was acknowledged as seq 1 and is not there"),
        (_never_sent, "nobody sent it"),
        (_never_sent_to, "request-1: nobody sent it"),
        (_without_genesis, "is a mutation at seq 0"),
        (_without_genesis, "is a ledger.created at seq 1"),
        (_refused, "refused"),
        (_forked, "FORK: a checkpoint of tree size 5"),
        (_rolled_back, "ROLLED BACK"),
        (_forged_checkpoint, "a checkpoint does not verify"),
        (_log_out_of_order, "log index 2: is"),
        (_damaged_receipt, "seq 2: does not verify"),
        (_no_proof, "seq 2: no signed checkpoint covers it"),
        (receipt_changed(2, seq=5), "stands where seq 2 should be"),
        (receipt_changed(2, ledger="tenants/acme/ledgers/b"), "stands where seq 2 should be"),
        (receipt_changed(2, previous_hash=bytes(32)), "is not linked to the receipt before it"),
        (receipt_changed(2, t_ns=1), "is not later than the receipt before it"),
        (receipt_changed(2, receipt_hash=bytes(32)), "seq 2 is another one there"),
        (_leaf_changed(3, b"no entry"), "log index 3: holds no entry"),
        (_leaf_changed(0, b'{"log":{"origin":"another","v":"1"}}'), "index 0: names another log"),
        (_leaf_changed(0, b"{}"), "log index 0: names another log, or none"),
        (_leaf_changed(0, b'{"log":{"origin":"another","v":"1"}}'), "FORK: .* tree size 1 has"),
        (_leaf_of_another_ledger, "is of a ledger that is not there"),
        (_not_all_in_the_log, "the log holds 8 of its receipts"),
        (_proven_elsewhere, "seq 2 is said to be elsewhere"),
        (_proven_in_a_fork, "ROLLED BACK: a checkpoint of tree size 11"),
        (_of_two_logs, "there are checkpoints of two logs"),
        (_nothing_outside, f"{SINKS[0]}: has no checkpoint of all 10 leaves"),
        (_nothing_outside, "lacks the checkpoint of tree size 10 that was said to be anchored"),
        (_not_in_the_second, f"{SINKS[1]}: has no checkpoint of all 10 leaves"),
        (_not_in_the_second, r"2: \['file:///srv/other'\] lacks the checkpoint of tree size 10"),
        (_no_sink, "there is no sink"),
        (_kept(SINKS[1], 4), f"{SINKS[1]}: lacks tree size 4, of which the anchor keeps evidence"),
        (_kept("file:///another", 10), "file:///another: lacks tree size 10"),
        (_told(sinks=("file:///another",), by_all=False), r"\['file:///another'\] lacks"),
        (_anchored_by_what_is_published, "lacks the checkpoint of tree size 6 that was said to be"),
        (_told(checkpoint=sample_chain().checkpoint(1)), "anchored by a checkpoint of tree size 1"),
        (_told(log_index=10), "anchored by a checkpoint of tree size 10"),
        (_told(log_index=3), "log index 3: another receipt stands there"),
        (_told(receipt_hash=bytes(32)), "another receipt stands there"),
        (_no_range, "what is stored was checked as None"),
        (_range(checked_seq=7), "what is stored was checked as"),
        (_range(start_seq=1), "what is stored was checked as"),
        (_range(checked_count=8), "what is stored was checked as"),
        (_range(receipt_hash=bytes(32)), "what is stored was checked as"),
        (_range(places_checked=False), "the log was not asked where all of its receipts are"),
        (_forged_head, "a head, or its checkpoint, does not verify"),
        (_headed(receipt_hash=bytes(32)), "FORK: a head of seq 8 at tree size 10 names another"),
        (_headed(seq=7), "FORK: a head of seq 7 at tree size 10 names another receipt"),
        (_headed(log_index=8, seq=7), "FORK: .* names log index 8, which is not the last one"),
        (_headed(ledger_uid=bytes(16)), "a head of seq 8 at tree size 10 is of another log or"),
        (_headed(origin="provledger.test/another"), "size 10 is of another log or ledger"),
        (_headed(root=bytes(32)), "FORK: a head, or its checkpoint, does not verify"),
        (_headed(9), "a head of seq 8 at tree size 10 came with a checkpoint of another tree"),
        (_headed_by(_head_of_another_log()), "a head, or its checkpoint, does not verify"),
        (_head_with_a_forked_checkpoint, "FORK: a head, or its checkpoint, does not verify"),
        (_without_last, "ROLLED BACK: a head of seq 8 at tree size 10 was seen; there are 9"),
        (_contradicted, "logs/-: shows tree size 3 after 4 had been shown"),
        (_no_lists, f"{LEDGER}: was not listed by actor_id="),
        (
            _listed("resource_id", lambda _: []),
            r"resource_id=redis/8 lacks seq \[8\] and has seq \[\]",
        ),
        (_listed("actor_id", lambda shown: shown[:-1]), r"by actor_id=\S+ lacks seq \[8\] and"),
        (_listed("receipt_type", lambda shown: shown[1:]), r"=mutation lacks seq \[1\] and"),
        (_listed("start_t_ns", lambda shown: shown[:-1]), r"lacks seq \[8\] and has seq \[\]"),
        (_listed("end_t_ns", lambda shown: [*shown, (4, b"")]), r"seq \[\] and has seq \[4\]"),
        (_listed("resource_type", lambda shown: shown[::-1]), r"has seq \[\], or is out of order"),
    ],
)
def test_what_is_broken_is_named(change: Change, text: str) -> None:
    with pytest.raises(BrokenInvariantError, match=text):
        check(*change(*world()))


def test_a_denied_leaf_of_the_log_is_named() -> None:
    """The ledger was put back and goes on from there; the log remembers."""
    history, holdings = world()
    receipts = list(holdings.receipts[LEDGER])[:-1]
    history = dataclasses.replace(history, acknowledged=history.acknowledged[:-1])
    with pytest.raises(BrokenInvariantError, match=f"{LEDGER} denies its seq {len(receipts)}"):
        check(history, dataclasses.replace(holdings, receipts={LEDGER: receipts}))


@pytest.mark.parametrize("ledger", sorted(UNRECORDED))
def test_ledgers_of_others_are_checked_but_for_who_sent_what(ledger: str) -> None:
    _, tenant, _, name = ledger.split("/")
    chain = sample_chain(tenant=tenant, ledger=name)
    receipts = chain.receipts()
    seen = (chain.checkpoint(),)
    whole = holdings_of(chain, receipts, list(seen))
    holdings = dataclasses.replace(
        whole,
        receipts={ledger: receipts},
        ranges={ledger: whole.ranges[LEDGER]},
        lists={ledger: whole.lists[LEDGER]},
    )
    check(History({}, (), (), seen), holdings)
    receipts[2] = dataclasses.replace(receipts[2], kid="another")
    with pytest.raises(BrokenInvariantError, match="seq 2: does not verify"):
        check(History({}, (), (), seen), holdings)
