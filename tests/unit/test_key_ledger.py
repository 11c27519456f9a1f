"""Exports that carry the key ledger: a pin is all that a verifier brings."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from notary_svc.signing import Cosigner
from provledger import jcs
from provledger.errors import VerificationError
from provledger.export import KEY_LEDGER_PREFIX, parse_header, verify_export
from provledger.key_events import SignedEvent
from provledger.key_ledger import verify_by_earlier, verify_from_pin, verify_key_ledger
from provledger.key_ledger_lines import lines_of, wrap
from provledger.keyset import CoveredCheckpoint, KeySet
from provledger.outside import Outside
from provledger.policy import parse_policy
from provledger.report import Check, Finding, Outcome, Status
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD
from provledger_cli.verifying.verdicts import failure_code
from tests.support.chain import (
    ORIGIN,
    START_NS,
    Chain,
    key_set,
    mutation,
    sample_chain,
    with_changes,
)
from tests.support.key_history import PIN, in_one_log, key_chain, record, replaced, thumbprint
from tests.support.tiled import flip
from tests.unit.test_verify import masked_receipt


@pytest.fixture(scope="module")
def both() -> tuple[Chain, Chain]:
    chain = sample_chain((3, 1))
    # A key that is pending changes nothing.
    pending = replaced("witness-1", "witness-2", "witness", CoveredCheckpoint(ORIGIN, 1, bytes(32)))
    keys = key_chain(pending[:1])
    in_one_log(chain, keys)
    return chain, keys


def outcome(report, check):
    return {result.check: result.outcome for result in report.results}[check]


def test_an_export_verifies_from_a_pinned_genesis_alone(both) -> None:
    chain, keys = both
    lines = chain.export(key_ledger=keys.export())
    report = verify_from_pin(lines, PIN)
    assert (report.status, report.count) == (Status.VERIFIED, 5)
    assert outcome(report, Check.KEY_LEDGER) is Outcome.HOLDS
    assert report.key_ledger_uid == keys.uid
    # Any key of the genesis may be pinned, and the key ledger's own export is one as well.
    assert verify_from_pin(lines, thumbprint("head-1")).status is Status.VERIFIED
    assert verify_from_pin(keys.export(), PIN).status is Status.VERIFIED
    assert lines_of(lines) == keys.export() == lines_of(keys.export())
    carried = [line for line in lines if line.startswith(KEY_LEDGER_PREFIX)]
    assert list(wrap(keys.export())) == carried


def test_with_a_key_set_alone_the_key_ledger_is_not_checked(both) -> None:
    chain, keys = both
    report = verify_export(chain.export(key_ledger=keys.export()), key_set())
    assert report.status is Status.VERIFIED
    assert outcome(report, Check.KEY_LEDGER) is Outcome.NOT_CHECKED


def test_a_broken_receipt_behind_a_key_ledger_is_named_by_its_line(both) -> None:
    chain, keys = both
    receipts = chain.receipts()
    receipts[2] = with_changes(receipts[2], t_ns=receipts[2].t_ns + 1)
    lines = chain.export(receipts, key_ledger=keys.export())
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(lines, PIN)
    assert caught.value.receipt == receipts[2].name
    assert caught.value.line is not None
    assert receipts[2].name.encode() in lines[caught.value.line - 1]


BROKEN: dict[str, tuple[Callable[[Chain, Chain], list[bytes]], str]] = {
    "no key ledger": (lambda c, k: c.export(), "carries no key ledger"),
    "an event left out": (
        lambda c, k: c.export(key_ledger=k.export(k.receipts()[:-1])),
        "the export ends at",
    ),
    "the genesis left out": (
        lambda c, k: c.export(key_ledger=k.export(k.receipts()[:1], head=None)),
        "no genesis",
    ),
    "without a head": (
        lambda c, k: c.export(key_ledger=k.export(head=None)),
        "no signed head",
    ),
    "not in the log": (
        lambda c, k: c.export(
            key_ledger=k.export([with_changes(each, proofs=()) for each in k.receipts()])
        ),
        "not all of it is in the log",
    ),
    "as of an older checkpoint": (
        lambda c, k: c.export(key_ledger=key_chain().export()),
        "another checkpoint",
    ),
    "another ledger": (lambda c, k: c.export(key_ledger=c.export()), "no genesis"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_key_ledger_that_does_not_hold_is_refused(both, name: str) -> None:
    make, why = BROKEN[name]
    with pytest.raises(VerificationError, match=why):
        verify_from_pin(make(*both), PIN)


@pytest.mark.parametrize("seq", [1, 2])
def test_an_event_that_does_not_show_its_payload_is_named(both, seq: int) -> None:
    """Whoever holds the export can mask it; it is no event of another ledger then."""
    _, keys = both
    receipts = keys.receipts()
    receipts[seq] = masked_receipt(receipt=receipts[seq])
    with pytest.raises(VerificationError, match="does not show its payload") as caught:
        verify_key_ledger(keys.export(receipts), PIN)
    assert (caught.value.check, caught.value.receipt) == (Check.KEY_LEDGER, receipts[seq].name)


def test_a_second_key_ledger_with_the_same_genesis_is_told_by_its_uid() -> None:
    """All of it is signed and endorsed; it only lacks the events that came after the genesis."""
    chain, keys, second = sample_chain((3, 1)), key_chain(), key_chain(seed="second")
    in_one_log(chain, second)
    lines = chain.export(key_ledger=second.export())
    report = verify_from_pin(lines, PIN)
    assert (report.status, report.key_ledger_uid) == (Status.VERIFIED, second.uid)
    with pytest.raises(VerificationError, match=keys.uid.hex()):
        verify_from_pin(lines, PIN, uid=keys.uid)
    assert verify_from_pin(lines, PIN, uid=second.uid).status is Status.VERIFIED


def test_another_pin_is_refused(both) -> None:
    chain, keys = both
    with pytest.raises(VerificationError, match="pinned thumbprint"):
        verify_from_pin(chain.export(key_ledger=keys.export()), bytes(32))


def test_a_key_set_that_disagrees_is_refused(both) -> None:
    chain, keys = both
    lines = chain.export(key_ledger=keys.export())
    verify_from_pin(lines, PIN, verify_key_ledger(keys.export(), PIN).key_set())
    with pytest.raises(VerificationError, match="leaves out"):
        verify_from_pin(lines, PIN, KeySet(list(key_set())[:2]))


def test_a_revocation_in_the_key_ledger_decides() -> None:
    """What the stolen key signed later is found with the pin, though a key set still takes it."""
    chain = sample_chain((3,))
    size = len(chain.leaves)
    checkpoint = CoveredCheckpoint(ORIGIN, size, chain.root_hash())
    chain.append([mutation(9)])
    keys = key_chain(replaced("witness-1", "witness-2", "witness", checkpoint))
    in_one_log(chain, keys)
    lines = chain.export(key_ledger=keys.export(), consistency=[chain.consistency(size)])
    assert verify_export(lines, key_set()).status is Status.VERIFIED
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(lines, PIN)
    assert (caught.value.finding, caught.value.receipt) == ("came_later", chain.links[4][0].name)


@pytest.mark.parametrize("frame", ["old", "bare"])
def test_a_revocation_cannot_be_left_out_by_the_frame_of_an_older_export(frame: str) -> None:
    """Header, key ledger and footer of before, around the receipts of now: nothing is signed."""
    chain, keys = sample_chain((3,)), key_chain()
    in_one_log(chain, keys)
    old = chain.export(key_ledger=keys.export())
    assert verify_from_pin(old, PIN).status is Status.VERIFIED
    chain.append([mutation(9)])
    receipts = chain.receipts()
    footer: dict[str, Any] = jcs.parse(old[-1].strip())["footer"]
    if frame == "bare":
        footer |= {"checkpoint": None, "head": None}
    head = footer["head"] and base64.b64decode(footer["head"])
    signed_note = footer["checkpoint"] and footer["checkpoint"].encode()
    lines = chain.export(
        receipts,
        header=parse_header(old[0]),
        key_ledger=lines_of(old),
        head=head,
        signed=signed_note,
    )
    with pytest.raises(VerificationError):
        verify_from_pin(lines, PIN)


# --- a ledger that has a log of its own, and so another one than the key ledger

OWN = "provledger.test/own"
SIGNED_NS = START_NS + 60_000_000_000


def own_log(changes: int = 4) -> Chain:
    return sample_chain((changes,), origin=OWN)


def signed(chain: Chain, at_ns: int = SIGNED_NS, **options: Any) -> list[bytes]:
    """An export whose head is signed at a time."""
    return chain.export(head=chain.head(signed_at_ns=at_ns), **options)


def test_a_ledger_in_its_own_log_verifies_from_a_pin_alone() -> None:
    chain, keys = own_log(), key_chain()
    for later_ns in (0, 1):
        lines = signed(chain, key_ledger=signed(keys, SIGNED_NS + later_ns))
        report = verify_from_pin(lines, PIN)
        assert (report.status, report.count) == (Status.VERIFIED, 5)
        (found,) = [each for each in report.results if each.check is Check.KEY_LEDGER]
        assert found.outcome is Outcome.HOLDS
        assert f"tree size {len(keys.leaves)} of {ORIGIN}" in found.detail
    assert verify_export(lines, key_set()).status is Status.VERIFIED


def test_who_is_asked_for_is_asked_of_the_key_ledgers_log_too(tmp_path: Path) -> None:
    """Keys that come from a checkpoint nobody cosigned would make the export's cosigners moot."""
    chain, keys = own_log(), key_chain()
    lines = signed(chain, key_ledger=signed(keys))
    (first, *_) = Cosigner.open("cosigner.test/one", tmp_path).vkeys
    asking = Outside(parse_policy(f"witness a {first}\nquorum a\n".encode()))
    nobody = Outside(parse_policy(b"quorum none\n"))
    assert verify_from_pin(lines, PIN, outside=nobody).status is Status.VERIFIED
    with pytest.raises(VerificationError, match="what was asked for is not there"):
        verify_key_ledger(keys.export(), PIN, outside=asking)
    with pytest.raises(VerificationError, match="what was asked for is not there"):
        verify_from_pin(lines, PIN, outside=asking)


def test_what_was_revoked_in_another_log_is_found_and_what_stood_before_stands() -> None:
    chain = own_log()
    size = len(chain.leaves)
    named = CoveredCheckpoint(OWN, size, chain.root_hash())
    keys = key_chain(replaced("witness-1", "witness-2", "witness", named))
    before = signed(chain, key_ledger=signed(keys))
    assert verify_from_pin(before, PIN).status is Status.VERIFIED
    chain.append([mutation(9)])
    later = [chain.consistency(size)]
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(signed(chain, consistency=later, key_ledger=signed(keys)), PIN)
    assert (caught.value.finding, caught.value.receipt) == ("came_later", chain.links[-1][0].name)
    # Nor does it help to put in a key ledger of before, as another file carries it.
    old = signed(key_chain(), SIGNED_NS - 1)
    with pytest.raises(VerificationError, match="older than the export"):
        verify_from_pin(signed(chain, consistency=later, key_ledger=old), PIN)


def _footer(lines: list[bytes], change: Callable[[dict[str, Any]], None]) -> list[bytes]:
    """The same lines with something else in the footer."""
    value: Any = jcs.parse(lines[-1].strip())
    change(value["footer"])
    return [*lines[:-1], jcs.encode(value) + b"\n"]


def _with_checkpoint(note: Callable[[bytes], bytes]) -> Callable[[Chain, Chain], list[bytes]]:
    """Another checkpoint in the key ledger's footer; each of its receipts has it as well."""

    def make(chain: Chain, keys: Chain) -> list[bytes]:
        whole = keys.checkpoint()
        receipts = [
            with_changes(each, proofs=(replace(each.proofs[0], checkpoint=note(whole)),))
            for each in keys.receipts()
        ]
        return signed(chain, key_ledger=signed(keys, receipts=receipts, signed=note(whole)))

    return make


def _other_root(note: bytes) -> bytes:
    lines = note.split(b"\n")
    lines[2] = base64.b64encode(bytes(32))
    return b"\n".join(lines)


DAMAGED_NEIGHBOURS: dict[str, tuple[Callable[[Chain, Chain], list[bytes]], str]] = {
    "its checkpoint has a flipped bit": (
        _with_checkpoint(lambda n: flip(n, len(n) - 20)),
        "known key does not verify",
    ),
    "its checkpoint has another root": (_with_checkpoint(_other_root), "known key does not verify"),
    "its checkpoint is of another size": (
        _with_checkpoint(lambda n: n.replace(b"\n4\n", b"\n5\n")),
        "known key does not verify",
    ),
    "its checkpoint says it is of the other log": (
        _with_checkpoint(lambda n: n.replace(ORIGIN.encode(), OWN.encode())),
        "no signature by a known key",
    ),
    "its checkpoint is that of the export": (
        lambda c, k: signed(c, key_ledger=signed(k, signed=c.checkpoint())),
        "no signature by a known key",
    ),
    "a stranger signed its checkpoint": (
        lambda c, k: signed(
            c,
            key_ledger=signed(
                k,
                receipts=k.receipts(log_key="stranger"),
                signed=k.checkpoint(log_key="stranger"),
            ),
        ),
        "that is in the given key set",
    ),
    "its checkpoint is left out": (
        lambda c, k: signed(
            c, key_ledger=_footer(signed(k), lambda footer: footer.update(checkpoint=None))
        ),
        "another tree than the checkpoint",
    ),
    "its head is left out": (
        lambda c, k: signed(c, key_ledger=k.export(head=None)),
        "no signed head",
    ),
    "the export's head is left out": (
        lambda c, k: c.export(head=None, key_ledger=signed(k)),
        "no signed head",
    ),
    "its head was signed before the export's": (
        lambda c, k: signed(c, key_ledger=signed(k, SIGNED_NS - 1)),
        "older than the export",
    ),
    "its head is that of the export": (
        lambda c, k: signed(c, key_ledger=k.export(head=c.head(signed_at_ns=SIGNED_NS))),
        "another ledger",
    ),
    "an event is left out": (
        lambda c, k: signed(
            c, key_ledger=k.export(k.receipts()[:-1], head=k.head(signed_at_ns=SIGNED_NS))
        ),
        "the export ends at",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_NEIGHBOURS)
def test_a_key_ledger_in_another_log_that_does_not_hold_is_refused(name: str) -> None:
    make, why = DAMAGED_NEIGHBOURS[name]
    pending = replaced("witness-1", "witness-2", "witness", CoveredCheckpoint(ORIGIN, 1, bytes(32)))
    with pytest.raises(VerificationError, match=why):
        verify_from_pin(make(own_log(), key_chain(pending[:1])), PIN)


def test_a_key_ledger_taken_out_is_held_against_a_head_from_elsewhere() -> None:
    old, now = (
        key_chain(),
        key_chain(
            replaced("head-1", "head-2", "head", CoveredCheckpoint(ORIGIN, 2, bytes(32)))[:1]
        ),
    )
    elsewhere = now.head()
    chain = own_log()
    for keys, reached in ((now, True), (old, False)):
        lines = signed(chain, key_ledger=signed(keys))
        assert verify_from_pin(lines, PIN).status is Status.VERIFIED
        if reached:
            report = verify_from_pin(lines_of(lines), PIN, head=elsewhere)
            assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS
        else:
            with pytest.raises(VerificationError, match="the head given"):
                verify_from_pin(lines_of(lines), PIN, head=elsewhere)


def test_a_key_ledger_of_a_split_view_is_refused() -> None:
    """Both are signed, of one log and size, and whole: but the key ledger lies in another tree,
    where a revocation was never logged."""
    chain, keys = sample_chain((1,)), key_chain()
    assert len(chain.leaves) == len(keys.leaves)
    assert chain.root_hash() != keys.root_hash()
    assert verify_key_ledger(keys.export(), PIN).report.status is Status.VERIFIED
    with pytest.raises(VerificationError, match="in another tree of size 3"):
        verify_from_pin(chain.export(key_ledger=keys.export()), PIN)


def test_key_events_in_a_ledger_of_another_name_are_none() -> None:
    """whoever may write receipts of a tenant's ledger does not write the key ledger."""
    real = key_chain()
    other = Chain(tenant="acme", ledger="keys")
    for receipt, _ in real.links[1:]:
        other.append([(receipt.receipt_type, jcs.parse(receipt.payload or b""))])
    with pytest.raises(VerificationError, match="it is of tenants/acme/ledgers/keys"):
        verify_key_ledger(other.export(), PIN)


@pytest.mark.parametrize("purpose", ["checkpoint", "head"])
def test_a_key_ledger_that_only_a_revoked_key_signed_is_refused(purpose: str) -> None:
    """a revoked witness key is let pass there, and no other one is."""
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash())
    keys = key_chain(replaced(f"{purpose}-1", f"{purpose}-2", purpose, named))
    with pytest.raises(VerificationError):
        verify_key_ledger(keys.export(), PIN)


def revoking() -> tuple[Chain, SignedEvent]:
    """A key ledger whose last event, a revocation, is still to be recorded."""
    covered = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash())
    *first, revoked = replaced("witness-1", "witness-2", "witness", covered)
    return key_chain(first), revoked


def refused(keys: Chain) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_key_ledger(keys.export(), PIN)
    assert caught.value.check == Check.KEY_LEDGER
    return caught.value


def test_an_event_of_a_later_version_is_not_passed_over() -> None:
    """What it says of the keys cannot be told; that is said of what holds, and of nothing else."""
    keys, revoked = revoking()
    record(keys, revoked, receipt_type="key.foo")
    error = refused(keys)
    assert (error.finding, error.receipt) == (Finding.NOT_PLACED, keys.links[-1][0].name)
    assert failure_code(error) == COULD_NOT_TELL
    # Nobody can have it said of a forgery.
    receipts = keys.receipts()
    receipts[-1] = with_changes(receipts[-1], t_ns=receipts[-1].t_ns + 1)
    with pytest.raises(VerificationError) as caught:
        verify_key_ledger(keys.export(receipts), PIN)
    assert failure_code(caught.value) == DOES_NOT_HOLD
    receipts = key_chain().receipts()
    receipts[-1] = with_changes(receipts[-1], receipt_type="key.foo")
    with pytest.raises(VerificationError) as caught:
        verify_key_ledger(key_chain().export(receipts), PIN)
    assert failure_code(caught.value) == DOES_NOT_HOLD


def test_a_type_that_contradicts_its_event_does_not_hold() -> None:
    keys, revoked = revoking()
    record(keys, revoked, receipt_type="key.retired")
    error = refused(keys)
    assert "holds a key.revoked" in error.message
    assert failure_code(error) == DOES_NOT_HOLD


@pytest.mark.parametrize("request_id", ["request-4", f"key-event-{bytes(32).hex()}"])
def test_a_request_id_that_does_not_name_its_event_does_not_hold(request_id: str) -> None:
    keys, revoked = revoking()
    record(keys, revoked, request=request_id)
    error = refused(keys)
    assert "request id" in error.message
    assert failure_code(error) == DOES_NOT_HOLD


def test_what_is_no_key_event_may_stand_in_a_key_ledger() -> None:
    keys, revoked = revoking()
    keys.append([("evidence.note", {"said": "that the keys were looked at"})])
    record(keys, revoked)
    found = verify_key_ledger(keys.export(), PIN)
    assert found.history.count == 4


def _overtaken() -> Chain:
    """A key ledger that a revoked checkpoint key signed last, with one more leaf behind it."""
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash(2))
    keys = key_chain(replaced("checkpoint-1", "checkpoint-2", "checkpoint", named))
    keys.leaves.append(b"it waited")
    return keys


@pytest.mark.parametrize("where", ["footer", "carrier"])
def test_events_are_proven_by_an_earlier_checkpoint_that_counts(where: str) -> None:
    keys = _overtaken()
    earlier = [keys.consistency(len(keys.leaves) - 1, log_key="checkpoint-2")]
    own, given = (earlier, []) if where == "footer" else ([], earlier)
    lines = keys.export(consistency=own)
    with pytest.raises(VerificationError, match="revoked"):
        verify_key_ledger(lines, PIN)
    assert verify_by_earlier(lines, PIN, given).count == 4


@pytest.mark.parametrize("which", ["none", "revoked", "too small", "another tree", "no proof"])
def test_events_that_no_checkpoint_proves_are_not_taken(which: str) -> None:
    keys = _overtaken()
    size = len(keys.leaves) - 1
    good = keys.consistency(size, log_key="checkpoint-2")
    other = [*keys.leaves[: size - 1], b"another"]
    earlier = {
        "none": [],
        "revoked": [keys.consistency(size)],
        "too small": [keys.consistency(size - 1, log_key="checkpoint-2")],
        "another tree": [
            replace(good, checkpoint=keys.checkpoint(leaves=other, log_key="checkpoint-2"))
        ],
        "no proof": [replace(good, hashes=())],
    }[which]
    with pytest.raises(VerificationError) as caught:
        verify_by_earlier(keys.export(), PIN, earlier)
    assert caught.value.finding == "not_placed"


def test_events_do_not_hang_on_a_head_by_a_revoked_key() -> None:
    """But there must be a head: without one, any export could be cut short."""
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash(2))
    keys = key_chain(replaced("head-1", "head-2", "head", named))
    assert verify_by_earlier(keys.export(), PIN).count == 4
    with pytest.raises(VerificationError, match="no head"):
        verify_by_earlier(keys.export(head=None), PIN)
