"""What verifying a whole export must find, and tell apart."""

from __future__ import annotations

import dataclasses
import hashlib
import io

import pytest

from provledger import disclosure, jcs, names
from provledger.errors import ReceiptFormatError, VerificationError
from provledger.export import (
    ConsistencyProof,
    ExportFooter,
    ExportWriter,
    LineVerifier,
    parse_footer,
    parse_header,
    verify_export,
)
from provledger.receipt import MAX_RECEIPT_BYTES, Evidence, Receipt
from provledger.report import Check, Finding, Outcome, Status
from provledger.verify import Verifier
from provledger.witness_batch import statement_leaf_hash
from tests.support.chain import Chain, key_set, mutation, sample_chain, with_changes

KEYS = key_set()
CHAIN = sample_chain()
RECEIPTS = CHAIN.receipts()


def outcome(report, check):
    return {result.check: result.outcome for result in report.results}[check]


def found(lines, **options):
    """Return what is raised for an export that must not verify."""
    with pytest.raises(VerificationError) as caught:
        verify_export(lines, KEYS, **options)
    return caught.value


def test_a_good_export_is_verified_and_says_what_was_not_checked():
    report = verify_export(CHAIN.export(), KEYS)
    assert report.status is Status.VERIFIED
    assert (report.count, report.last_seq) == (9, 8)
    assert outcome(report, Check.CHAIN) is Outcome.HOLDS
    assert outcome(report, Check.HEAD) is Outcome.HOLDS
    assert outcome(report, Check.TRUNCATION) is Outcome.NOT_CHECKED


def test_header_and_footer_are_written_and_read_the_same():
    lines = CHAIN.export(consistency=[CHAIN.consistency(4)])
    assert parse_header(lines[0]).encode() + b"\n" == lines[0]
    footer = parse_footer(lines[-1])
    assert footer.encode() + b"\n" == lines[-1]
    assert footer.count == 9
    assert footer.digest == hashlib.sha256(b"".join(lines[:-1])).digest()


@pytest.mark.parametrize("origin", [b"[]", b"{}", b"5", b"null", b"true"])
def test_an_origin_that_is_no_text_is_a_matter_of_form(origin: bytes):
    lines = CHAIN.export()
    told = jcs.encode(CHAIN.header().origin)
    lines[0] = lines[0].replace(b'"origin":' + told, b'"origin":' + origin)
    assert b'"origin":' + origin in lines[0]
    assert found(lines).check == Check.FORMAT


@pytest.mark.parametrize(
    "payload",
    [
        {"csv": "a,b,c\n" * 2100},
        {"list": list(range(5000))},
        {str(name): name for name in range(disclosure.MAX_FIELDS)},
    ],
    ids=["text", "list", "as many fields as there may be"],
)
def test_payloads_with_thousands_of_commas_hold(payload):
    chain = sample_chain((1,))
    chain.append([("evidence.note", payload), mutation(3)])
    report = verify_export(chain.export(), KEYS)
    assert (report.status, report.count) == (Status.VERIFIED, 4)


def test_a_line_with_thousands_of_commas_must_be_canonical_like_any_other():
    chain = sample_chain((1,))
    chain.append([("evidence.note", {"list": list(range(5000))}), mutation(3)])
    lines = chain.export()
    lines[3] = lines[3].replace(b"[0,1,", b"[0, 1,")
    error = found(lines)
    assert (error.check, error.finding, error.line) == (Check.FORMAT, Finding.FORMAT, 4)
    assert "canonical" in error.message


def test_receipts_without_proofs_make_the_export_unverified():
    bare = [with_changes(receipt, proofs=()) for receipt in RECEIPTS]
    report = verify_export(CHAIN.export(bare), KEYS)
    assert report.status is Status.UNVERIFIED
    assert report.unverified == 9
    assert report.first_unverified == (RECEIPTS[0].name, 2)


def test_the_first_receipt_that_is_unverified_is_named():
    """Among thousands, nobody finds the one whose proof was taken out."""
    some = [*RECEIPTS]
    for at in (3, 7):
        some[at] = with_changes(RECEIPTS[at], proofs=())
    report = verify_export(CHAIN.export(some), KEYS)
    assert (report.status, report.unverified) == (Status.UNVERIFIED, 2)
    assert report.first_unverified == (RECEIPTS[3].name, 5)
    assert verify_export(CHAIN.export(), KEYS).first_unverified is None


def without_payload(receipt):
    """A receipt as anybody can make it who has it whole: every digest, and nothing shown."""
    value = jcs.parse(receipt.payload)
    secret = receipt.commitment.secret
    mutation_ = receipt.receipt_type == "mutation"
    digests = disclosure.digest_list(value, secret, mutation=mutation_)
    bare = dataclasses.replace(
        receipt.commitment, secret=None, disclosures=(), digests=tuple(digests)
    )
    return with_changes(receipt, payload=None, commitment=bare, fields_mask=())


def test_receipts_whose_payloads_were_taken_out_are_counted():
    """Anybody can do that, without a key; what is left still holds, and is not the whole."""
    report = verify_export(CHAIN.export(), KEYS)
    assert report.masked == 0
    shown = list(RECEIPTS)
    for place in (3, 5):
        shown[place] = without_payload(shown[place])
    report = verify_export(CHAIN.export(shown), KEYS)
    assert (report.status, report.masked, report.count) == (Status.VERIFIED, 2, 9)
    (found_,) = [each for each in report.results if each.check is Check.COMMITMENT]
    assert found_.detail == "2 of 9 receipts show only some of their fields"


def test_an_export_of_nothing_is_unverified():
    report = verify_export(CHAIN.export([], head=None), KEYS)
    assert report.status is Status.UNVERIFIED


def test_a_payload_changed_in_the_middle_names_the_first_broken_receipt():
    changed = list(RECEIPTS)
    payload = (changed[5].payload or b"").replace(b"2024-01-02", b"2024-01-03")
    changed[5] = with_changes(changed[5], payload=payload)
    error = found(CHAIN.export(changed))
    assert error.finding == Finding.PAYLOAD_CHANGED
    assert error.receipt == RECEIPTS[5].name
    assert error.line == 7


def test_a_changed_timestamp_is_told_from_a_changed_hash():
    moved = with_changes(
        RECEIPTS[4], t_ns=RECEIPTS[4].t_ns + 1, timestamp_iso="2025-11-20T19:00:00.004000001Z"
    )
    error = found(CHAIN.export([*RECEIPTS[:4], moved, *RECEIPTS[5:]]))
    assert (error.finding, error.receipt) == (Finding.TIMESTAMP_CHANGED, RECEIPTS[4].name)
    rehashed = with_changes(RECEIPTS[4], receipt_hash=bytes(32))
    error = found(CHAIN.export([*RECEIPTS[:4], rehashed, *RECEIPTS[5:]]))
    assert error.finding == Finding.HASH_CHANGED
    relinked = with_changes(RECEIPTS[4], previous_hash=bytes(32))
    error = found(CHAIN.export([*RECEIPTS[:4], relinked, *RECEIPTS[5:]]))
    assert error.finding == Finding.HASH_CHANGED


def test_two_receipts_in_the_wrong_order_are_reordered_not_deleted():
    swapped = [*RECEIPTS[:4], RECEIPTS[5], RECEIPTS[4], *RECEIPTS[6:]]
    error = found(CHAIN.export(swapped))
    assert (error.check, error.finding) == (Check.CHAIN, Finding.REORDERED)


def test_a_receipt_missing_in_the_middle_is_deleted():
    error = found(CHAIN.export([*RECEIPTS[:4], *RECEIPTS[5:]]))
    assert (error.check, error.finding) == (Check.CHAIN, Finding.DELETED)
    assert "seq 4" in str(error)


def test_what_a_payload_calls_seq_or_previous_hash_is_not_taken_for_the_receipts_own():
    chain = Chain()
    payload = {"seq": "1", "proofs": [{"previousHash": "0" * 64}]}
    chain.append([mutation(1), mutation(2)])
    chain.append([("note.taken", payload)] * 2)
    receipts = chain.receipts()
    error = found(chain.export([receipts[0], *receipts[2:]]))
    assert (error.check, error.finding) == (Check.CHAIN, Finding.DELETED)
    at_ns = receipts[2].t_ns + 1
    later = with_changes(receipts[2], t_ns=at_ns, timestamp_iso=names.timestamp_iso(at_ns))
    error = found(chain.export([*receipts[:2], later, *receipts[3:]]))
    assert (error.check, error.finding) == (Check.ENTRY, Finding.TIMESTAMP_CHANGED)
    again = with_changes(receipts[3], receipt_hash=bytes(32))
    error = found(chain.export([*receipts[:3], again, *receipts[3:]]))
    assert error.finding == Finding.INSERTED


def test_the_genesis_missing_is_deleted():
    error = found(CHAIN.export(RECEIPTS[1:]))
    assert error.finding == Finding.DELETED


def test_a_receipt_there_twice_is_inserted():
    error = found(CHAIN.export([*RECEIPTS[:5], RECEIPTS[4], *RECEIPTS[5:]]))
    assert (error.check, error.finding) == (Check.CHAIN, Finding.INSERTED)


def test_one_signed_statement_linked_twice_is_inserted():
    """A dishonest ledger links a statement again: every hash and proof of it holds."""
    chain = sample_chain()
    receipt = chain.links[4][0]
    again = chain.statements[4]
    chain._link(
        again,
        receipt.statement,
        statement_leaf_hash(chain.suite, receipt.statement),
        receipt.payload or b"",
        disclosure.Commitment(
            "fields-v1",
            receipt.payload_hash,
            receipt.commitment.size,
            receipt.commitment.secret or b"",
        ),
        receipt.signature,
    )
    error = found(chain.export())
    assert (error.check, error.finding) == (Check.CHAIN, Finding.INSERTED)
    assert error.line == 11


def test_a_forged_receipt_pushed_in_is_inserted():
    forger = sample_chain()
    forger.links, forger.leaves = forger.links[:4], forger.leaves[:5]
    forger.append([mutation(99)], signer="forger")
    forged = forger.receipts()[4]
    error = found(CHAIN.export([*RECEIPTS[:4], forged, *RECEIPTS[4:]]))
    assert error.finding == Finding.INSERTED


def test_a_receipt_of_another_ledger_is_named_as_such():
    other = sample_chain(tenant="other").receipts()
    error = found(CHAIN.export([*RECEIPTS[:4], other[4], *RECEIPTS[5:]]))
    assert error.finding == Finding.FOREIGN_LEDGER


def test_a_chain_spliced_from_two_histories_is_found():
    """Both halves are signed and logged; the second does not follow the first."""
    fork = Chain()
    fork.append([mutation(50 + i) for i in range(3)])
    fork.append([mutation(60 + i) for i in range(5)])
    error = found(CHAIN.export([*RECEIPTS[:4], *fork.receipts()[4:]]))
    assert (error.check, error.finding) == (Check.CONSISTENCY, Finding.HEAD_NOT_EXTENDING)
    assert error.line == 6


def rewritten(count: int = 6) -> Chain:
    """The same ledger with the same keys, whose history is another one from seq 4 on."""
    fork = sample_chain()
    fork.links, fork.leaves = fork.links[:4], fork.leaves[:5]
    fork.append([mutation(80 + i) for i in range(count)])
    return fork


@pytest.mark.parametrize("held", [{}, {"checkpoint": CHAIN.checkpoint()}], ids=["alone", "held"])
def test_receipts_of_another_history_behind_a_checkpoint_that_is_held_are_found(held):
    """The frame of one export around the receipts of another: each signature in it holds."""
    assert verify_export(rewritten().export(), KEYS).status is Status.VERIFIED
    receipts = rewritten().receipts()
    # Longer than what the head names, which is then never compared with the last receipt.
    error = found(CHAIN.export(receipts), **held)
    assert (error.check, error.finding) == (Check.HEAD, Finding.INSERTED)
    # Nobody's head, and proofs that lead to a tree of their own.
    error = found(CHAIN.export(receipts, head=None), **held)
    assert (error.check, error.finding) == (Check.INCLUSION, Finding.PROOF_INVALID)
    assert (error.receipt, error.line) == (receipts[0].name, 2)


def test_proofs_to_another_tree_of_the_same_size_are_found():
    fork = rewritten(5)
    assert len(fork.leaves) == len(CHAIN.leaves)
    receipts = [*RECEIPTS[:4], *fork.receipts()[4:]]
    for head in (fork.head(), None):
        error = found(CHAIN.export(receipts, head=head))
        assert (error.check, error.finding) == (Check.CONSISTENCY, Finding.HEAD_NOT_EXTENDING)
        assert (error.receipt, error.line) == (receipts[4].name, 6)


@pytest.mark.parametrize("seq", [None, 5], ids=["newest", "earlier"])
def test_a_head_of_another_tree_is_found_though_it_names_the_same_receipt(seq):
    """What differs is what others have in the log."""
    chain, fork = sample_chain(), sample_chain()
    chain.leaves.insert(3, b"others")
    fork.leaves.insert(3, b"theirs")
    lines = chain.export(consistency=[chain.consistency(8)])
    assert verify_export(lines, KEYS, head=chain.head(seq)).status is Status.VERIFIED
    error = found(lines, head=fork.head(seq))
    assert (error.check, error.finding) == (Check.CONSISTENCY, Finding.HEAD_NOT_EXTENDING)
    # An earlier tree is met at the end of the file.
    assert error.line == (2 if seq is None else len(lines))


def test_proofs_to_an_older_checkpoint_than_the_exports_are_found():
    longer = sample_chain(flushes=(3, 1, 4, 2))
    error = found(longer.export([*RECEIPTS, *longer.receipts()[9:]]))
    assert (error.check, error.receipt) == (Check.INCLUSION, RECEIPTS[0].name)


def test_proofs_without_a_checkpoint_of_the_export_are_found():
    error = found(CHAIN.export(head=None, signed=None))
    assert (error.check, error.finding) == (Check.INCLUSION, Finding.PROOF_INVALID)


def test_an_export_that_goes_on_after_its_own_head_is_found():
    error = found(CHAIN.export(head=_head_as_of_now(seq=5)))
    assert (error.check, error.finding) == (Check.HEAD, Finding.INSERTED)


def _head_as_of_now(seq: int) -> bytes:
    """A head for an earlier receipt that names the newest tree, as a forger of heads could sign."""
    shorter = sample_chain()
    shorter.links = shorter.links[: seq + 1]
    return shorter.head()


def test_a_cut_off_file_is_truncated():
    error = found(CHAIN.export()[:-1])
    assert error.finding == Finding.TRUNCATED
    lines = CHAIN.export()
    error = found([*lines[:5], lines[5][:-40]])
    assert error.check == Check.FORMAT


def test_receipts_cut_off_before_the_footer_are_truncated():
    lines = CHAIN.export()
    error = found([*lines[:-3], lines[-1]])
    assert error.finding == Finding.TRUNCATED


def test_the_exports_own_head_shows_a_shortened_export():
    error = found(CHAIN.export(RECEIPTS[:-2]))
    assert (error.check, error.finding) == (Check.TRUNCATION, Finding.TRUNCATED)


def test_without_any_head_truncation_is_not_checked_and_never_passes():
    report = verify_export(CHAIN.export(RECEIPTS[:-2], head=None), KEYS)
    assert outcome(report, Check.TRUNCATION) is Outcome.NOT_CHECKED


def test_a_head_obtained_elsewhere_shows_truncation():
    report = verify_export(CHAIN.export(), KEYS, head=CHAIN.head())
    assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS
    shortened = CHAIN.export(RECEIPTS[:-2], head=None)
    error = found(shortened, head=CHAIN.head())
    assert error.finding == Finding.TRUNCATED


def test_an_older_head_obtained_elsewhere_is_reached():
    report = verify_export(CHAIN.export(), KEYS, head=CHAIN.head(seq=5))
    assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS


def test_a_head_that_names_another_receipt_shows_a_rewritten_history():
    rewritten = Chain()
    rewritten.append([mutation(70 + i) for i in range(8)])
    error = found(rewritten.export(), head=CHAIN.head())
    assert error.finding == Finding.HEAD_NOT_EXTENDING


def test_a_head_of_another_ledger_is_refused():
    error = found(CHAIN.export(), head=sample_chain(tenant="other").head())
    assert error.finding == Finding.FOREIGN_LEDGER


def test_a_checkpoint_obtained_elsewhere_is_reached_or_shows_truncation():
    report = verify_export(CHAIN.export(), KEYS, checkpoint=CHAIN.checkpoint())
    assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS
    longer = sample_chain(flushes=(3, 1, 4, 2))
    error = found(CHAIN.export(), checkpoint=longer.checkpoint())
    assert error.finding == Finding.TRUNCATED


def test_an_older_checkpoint_needs_its_consistency_proof():
    old = CHAIN.checkpoint(5)
    report = verify_export(CHAIN.export(), KEYS, checkpoint=old)
    assert outcome(report, Check.TRUNCATION) is Outcome.NOT_CHECKED
    lines = CHAIN.export(consistency=[CHAIN.consistency(5)])
    report = verify_export(lines, KEYS, checkpoint=old)
    assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS
    assert outcome(report, Check.CONSISTENCY) is Outcome.HOLDS


def test_a_tree_head_that_does_not_extend_the_earlier_one_is_found():
    rewritten = [*CHAIN.leaves[:3], b"something else", *CHAIN.leaves[4:]]
    forged = CHAIN.checkpoint(5, leaves=rewritten)
    proof = ConsistencyProof(forged, CHAIN.consistency(5).hashes)
    error = found(CHAIN.export(consistency=[proof]))
    assert (error.check, error.finding) == (Check.CONSISTENCY, Finding.HEAD_NOT_EXTENDING)


def test_a_split_view_is_found_by_a_checkpoint_obtained_elsewhere():
    rewritten = [*CHAIN.leaves[:3], b"something else", *CHAIN.leaves[4:]]
    error = found(CHAIN.export(), checkpoint=CHAIN.checkpoint(leaves=rewritten))
    assert error.finding == Finding.HEAD_NOT_EXTENDING


def test_a_checkpoint_of_another_log_is_refused():
    other = sample_chain(origin="elsewhere.test/log")
    error = found(CHAIN.export(), checkpoint=other.checkpoint())
    assert error.check == Check.CHECKPOINT_SIGNATURE


def test_every_single_byte_of_an_export_is_bound():
    """Each byte of the file is changed once; not one change may pass."""
    small = sample_chain(flushes=(1,))
    lines = small.export(consistency=[small.consistency(2)])
    whole = b"".join(lines)
    passed = []
    for position in range(len(whole)):
        changed = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        try:
            verify_export(changed.splitlines(keepends=True), KEYS)
        except VerificationError:
            continue
        passed.append(position)
    assert [whole[at - 20 : at + 20] for at in passed] == []


def test_a_header_at_odds_with_the_receipts_is_found():
    header = dataclasses.replace(CHAIN.header(), ledger="tenants/acme/ledgers/other")
    assert found(CHAIN.export(header=header)).finding == Finding.FOREIGN_LEDGER
    header = dataclasses.replace(CHAIN.header(), tree_size=11)
    assert found(CHAIN.export(header=header)).finding == Finding.FILE_CHANGED


def test_an_empty_or_foreign_file_is_a_format_error():
    for lines in ([], [b"\n"], [b"{}\n"], [b"\x1f\x8b\x08"], [RECEIPTS[0].encode() + b"\n"]):
        assert found(lines).check == Check.FORMAT


def test_progress_is_reported_now_and_then():
    seen: list[int] = []
    chain = sample_chain(flushes=(300,))
    verify_export(chain.export(), KEYS, progress=seen.append)
    assert seen == [256]


def test_lines_after_the_footer_are_refused():
    lines = CHAIN.export()
    assert found([*lines, lines[3]]).finding == Finding.INSERTED


def test_a_footer_of_another_export_is_refused():
    other = sample_chain(flushes=(3, 1, 4, 2)).export()
    assert found([*CHAIN.export()[:-1], other[-1]]).finding == Finding.TRUNCATED


def test_footer_without_head_or_checkpoint_can_be_written():
    footer = ExportFooter(0, bytes(32), None, None)
    assert parse_footer(footer.encode() + b"\n") == footer


def test_a_receipt_is_as_long_in_an_export_as_it_may_be_anywhere():
    """To the byte: its line end counts for neither the writer nor the reader."""
    receipt = RECEIPTS[0]
    (proof,) = receipt.proofs

    def of(size: int) -> Receipt:
        # Base64 grows by four bytes for each three, the sink's name by one.
        evidence = Evidence("x" * (size % 4), "other", 1, b"a" * (size // 4 * 3))
        return dataclasses.replace(
            receipt, proofs=(dataclasses.replace(proof, evidence=(evidence,)),)
        )

    room = MAX_RECEIPT_BYTES - len(of(0).encode())
    whole, long = of(room), of(room + 1)
    assert len(whole.encode()) == MAX_RECEIPT_BYTES
    written = io.BytesIO()
    writer = ExportWriter(written, CHAIN.header())
    writer.write(whole)
    reader = LineVerifier(CHAIN.header(), Verifier(KEYS))
    assert reader.read(written.getvalue().splitlines(keepends=True)[1]) == whole
    with pytest.raises(ReceiptFormatError, match="longer than"):
        writer.write(long)
    assert writer.count == 1
    with pytest.raises(ReceiptFormatError, match="too long"):
        reader.read(long.encode() + b"\n")
