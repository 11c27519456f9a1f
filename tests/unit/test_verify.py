"""What `verify_receipt` must find, and what it must not claim."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from hypothesis import given, settings
from hypothesis import strategies as st

from provledger import disclosure, jcs
from provledger.errors import ReceiptFormatError, UnknownKeyError, VerificationError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.receipt import LegacyReceipt, Opening, Receipt, parse_receipt
from provledger.report import Check, Finding, Outcome, Status
from provledger.verify import Verifier, verify_receipt
from tests.support.chain import ORIGIN, Chain, key_set, mutation, sample_chain, with_changes

KEYS = key_set()
CHAIN = sample_chain()
RECEIPTS = CHAIN.receipts()
RECEIPT = RECEIPTS[5]


@pytest.mark.parametrize("receipt", RECEIPTS, ids=lambda receipt: f"seq {receipt.seq}")
def test_every_receipt_of_a_good_chain_is_verified(receipt):
    assert verify_receipt(receipt, KEYS).status is Status.VERIFIED


@pytest.mark.parametrize("suite", ["blake3", "blake3-all", "fips"])
def test_every_suite_verifies(suite):
    receipts = sample_chain(suite=suite).receipts()
    assert all(verify_receipt(receipt, KEYS).status is Status.VERIFIED for receipt in receipts)


@pytest.mark.parametrize("kind", [mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey])
def test_receipts_under_an_ml_dsa_key_verify_and_their_damaged_neighbours_do_not(kind):
    private = kind.from_seed_bytes(bytes(32))
    chain = Chain()
    chain.append([mutation(1), mutation(2)], kid="pq-1", key=private)
    ours = VerificationKey.from_public_key(
        private.public_key(), kid="pq-1", purpose=KeyPurpose.WITNESS
    )
    keys = KeySet([*KEYS, ours])
    receipt = chain.receipts()[2]
    assert verify_receipt(receipt.encode(), keys.encode()).status is Status.VERIFIED
    sig = receipt.signature.sig
    for damaged in (sig[:-1], sig + b"\0", bytes([sig[0] ^ 1]) + sig[1:], bytes(len(sig)), b""):
        signature = dataclasses.replace(receipt.signature, sig=damaged)
        with pytest.raises(VerificationError) as caught:
            verify_receipt(with_changes(receipt, signature=signature), keys)
        assert caught.value.check == Check.WITNESS_SIGNATURE


def test_receipts_are_accepted_as_text_value_and_object():
    for form in (RECEIPT, RECEIPT.encode(), RECEIPT.encode().decode(), RECEIPT.to_json_value()):
        assert verify_receipt(form, KEYS.encode()).status is Status.VERIFIED


def test_writing_and_reading_a_receipt_gives_it_back():
    assert parse_receipt(RECEIPT.encode()) == RECEIPT
    assert jcs.encode(RECEIPT.to_json_value()) == RECEIPT.encode()


def test_a_receipt_without_proof_is_unverified_and_says_so():
    report = verify_receipt(with_changes(RECEIPT, proofs=()), KEYS)
    assert report.status is Status.UNVERIFIED
    outcomes = {result.check: result.outcome for result in report.results}
    assert outcomes[Check.INCLUSION] is Outcome.NOT_CHECKED
    assert outcomes[Check.WITNESS_SIGNATURE] is Outcome.HOLDS


def test_truncation_and_chain_are_never_claimed_for_one_receipt():
    outcomes = {r.check: r.outcome for r in verify_receipt(RECEIPT, KEYS).results}
    assert outcomes[Check.TRUNCATION] is outcomes[Check.CHAIN] is Outcome.NOT_CHECKED


def test_a_receipt_of_version_01_is_read_and_reported_unverified():
    value = {
        name: RECEIPT.to_json_value()[name]
        for name in "id receiptType t_ns timestamp_iso previousHash payloadHash receiptHash "
        "payload signature".split()
    }
    assert isinstance(parse_receipt(value), LegacyReceipt)
    report = verify_receipt(value, KEYS)
    assert report.status is Status.UNVERIFIED
    assert all(result.outcome is Outcome.NOT_CHECKED for result in report.results)


def test_documents_of_other_media_types_verify():
    chain = Chain()
    chain.append([("report.filed", ("application/pdf", b"%PDF-1.7 not really"))])
    receipt = chain.receipts()[1]
    assert verify_receipt(receipt.encode(), KEYS).status is Status.VERIFIED
    changed = with_changes(receipt, payload=b"%PDF-1.7 not realty")
    with pytest.raises(VerificationError) as caught:
        verify_receipt(changed, KEYS)
    assert caught.value.finding == Finding.PAYLOAD_CHANGED


def masked_receipt(*pointers: str, receipt: Receipt = RECEIPT) -> Receipt:
    """A receipt in which only these fields are shown."""
    value = jcs.parse(receipt.payload or b"")
    secret = receipt.commitment.secret or b""
    shown = [
        item.text
        for item in disclosure.disclose_all(value, secret, mutation=True)
        if item.pointer in pointers
    ]
    digests = disclosure.digest_list(value, secret, mutation=True)
    return with_changes(
        receipt,
        payload=None,
        fields_mask=tuple(sorted(pointers)),
        commitment=Opening("fields-v1", len(digests), None, tuple(shown), tuple(digests)),
    )


@pytest.mark.parametrize("pointers", [("/entityId", "/newState/date"), ("/entityId",), ()])
def test_a_masked_receipt_shows_some_fields_and_verifies(pointers: tuple[str, ...]) -> None:
    assert verify_receipt(masked_receipt(*pointers).encode(), KEYS).status is Status.VERIFIED


def _altered(text: str) -> str:
    """A disclosure of another value, well-formed."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    salt, pointer, value = json.loads(data)
    other = jcs.encode([salt, pointer, f"{value}x"])
    return base64.urlsafe_b64encode(other).decode().rstrip("=")


MASKED = masked_receipt("/entityId", "/newState/date")
ONE, TWO = MASKED.commitment.disclosures
DIGESTS = MASKED.commitment.digests


@pytest.mark.parametrize(
    "changes",
    [
        {"disclosures": (ONE[:-2] + "!!", TWO)},
        {"disclosures": (ONE[:-1], TWO)},
        {"disclosures": (ONE + "=", TWO)},
        {"disclosures": ("", TWO)},
        {"disclosures": ("WyJh", TWO)},
        {"disclosures": ("\u00e9", TWO)},
        {"disclosures": (_altered(ONE), TWO)},
        {"disclosures": (ONE, ONE)},
        {"disclosures": (ONE, TWO, TWO)},
        {"disclosures": (ONE,)},
        {"disclosures": ()},
        {"digests": DIGESTS[:-1], "size": len(DIGESTS) - 1},
        {"digests": (), "size": 0},
        {"digests": DIGESTS[::-1]},
        {"digests": (*DIGESTS[:-1], bytes([255] * 32))},
        {"size": len(DIGESTS) * 2},
    ],
)
def test_a_masked_receipt_that_was_altered_does_not_hold(changes: dict[str, Any]) -> None:
    altered = with_changes(MASKED, commitment=dataclasses.replace(MASKED.commitment, **changes))
    for source in (altered, altered.encode()):
        with pytest.raises(VerificationError) as caught:
            verify_receipt(source, KEYS)
        found = (caught.value.check, caught.value.finding)
        assert found == (Check.COMMITMENT, Finding.PAYLOAD_CHANGED)
        assert str(caught.value).count("commitment: ") == 1


@pytest.mark.parametrize(
    ("receipt", "mask"),
    [
        (MASKED, None),
        (MASKED, ()),
        (MASKED, ("/entityId",)),
        (MASKED, ("/newState/date", "/entityId")),
        (MASKED, ("/entityId", "/entityId", "/newState/date")),
        (MASKED, ("/entityId", "/newState/date", "/newState/x")),
        (masked_receipt(), None),
        (RECEIPT, ()),
    ],
)
def test_a_mask_has_one_spelling(receipt: Receipt, mask: tuple[str, ...] | None) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_receipt(with_changes(receipt, fields_mask=mask).encode(), KEYS)
    found = (caught.value.check, caught.value.finding)
    assert found == (Check.COMMITMENT, Finding.PAYLOAD_CHANGED)


def test_a_payload_whose_pointers_fill_the_memory_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = Chain()
    with monkeypatch.context() as patched:
        # As a ledger would have it that knows no limit.
        patched.setattr(disclosure, "MAX_POINTER_BYTES", 2**40)
        chain.append([("note.taken", {"k" * 5000: {str(index): 0 for index in range(1000)}})])
    with pytest.raises(VerificationError, match="pointers are longer than 4194304") as caught:
        verify_receipt(chain.receipts()[1].encode(), KEYS)
    assert (caught.value.check, caught.value.finding) == (Check.COMMITMENT, Finding.PAYLOAD_CHANGED)


@pytest.mark.parametrize(
    ("stated", "member"),
    [
        ({"action": "DELETE"}, "mutationType"),
        ({"action": ""}, "mutationType"),
        ({"resource_type": "Account"}, "entityType"),
        ({"resource_id": "someone/else"}, "entityId"),
    ],
)
def test_a_mutation_is_the_one_that_its_statement_names(
    stated: dict[str, str], member: str
) -> None:
    """All signatures and hashes are good: the two were signed, and logged, at odds."""
    chain = Chain(misstated=stated)
    chain.append([mutation(1)])
    receipt = chain.receipts()[1]
    shown = masked_receipt(f"/{member}", "/newState/date", receipt=receipt)
    for source in (receipt, receipt.encode(), shown.encode()):
        with pytest.raises(VerificationError, match=rf"payload\.{member} is not") as caught:
            verify_receipt(source, KEYS)
        found = (caught.value.check, caught.value.finding)
        assert found == (Check.STATEMENT, Finding.STATEMENT_CHANGED)
    hidden = masked_receipt("/newState/date", receipt=receipt)
    assert verify_receipt(hidden.encode(), KEYS).status is Status.VERIFIED


def test_the_payload_of_a_mutation_says_of_what_it_is() -> None:
    kind, payload = mutation(1)
    del payload["entityId"]
    chain = Chain(misstated={"resource_id": "redis/1"})
    chain.append([(kind, payload)])
    with pytest.raises(VerificationError, match=r"payload\.entityId is not"):
        verify_receipt(chain.receipts()[1].encode(), KEYS)


def _change_payload(receipt: Receipt) -> Receipt:
    payload = receipt.payload or b""
    return with_changes(receipt, payload=payload.replace(b"2024-01-02", b"2024-01-03"))


def _change_statement(old: bytes, new: bytes) -> Any:
    def change(receipt: Receipt) -> Receipt:
        assert old in receipt.statement
        return with_changes(receipt, statement=receipt.statement.replace(old, new))

    return change


def _change(**changes: Any) -> Any:
    return lambda receipt: with_changes(receipt, **changes)


def _change_signature(**changes: Any) -> Any:
    return lambda receipt: with_changes(
        receipt, signature=dataclasses.replace(receipt.signature, **changes)
    )


def _change_proof(**changes: Any) -> Any:
    return lambda receipt: with_changes(
        receipt, proofs=(dataclasses.replace(receipt.proofs[0], **changes),)
    )


def _flip(data: bytes, at: int = 7) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TAMPERED = {
    "payload": (_change_payload, Check.COMMITMENT, Finding.PAYLOAD_CHANGED),
    "secret": (
        _change(commitment=Opening("fields-v1", 16, bytes(32))),
        Check.COMMITMENT,
        Finding.PAYLOAD_CHANGED,
    ),
    "actor in statement": (
        _change_statement(b'"id":"bot"', b'"id":"bob"'),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "actor type": (
        _change_statement(b'"type":"service"', b'"type":"servant"'),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "upstream": (
        _change_statement(b"git:2", b"git:3"),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "request id": (
        _change_statement(b"request-5", b"request-6"),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "occurred at": (
        _change_statement(b"03:04:05", b"03:04:06"),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "action": (
        _change_statement(b'"action":"UPDATE"', b'"action":"CREATE"'),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "loose statement": (
        lambda receipt: with_changes(receipt, statement=receipt.statement + b" "),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "receipt type": (
        _change(receipt_type="incident"),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "name": (
        _change(name=RECEIPTS[4].name),
        Check.STATEMENT,
        Finding.STATEMENT_CHANGED,
    ),
    "ledger name": (
        _change(ledger="tenants/acme/ledgers/other"),
        Check.STATEMENT,
        Finding.FOREIGN_LEDGER,
    ),
    "ledger uid": (_change(ledger_uid=bytes(16)), Check.STATEMENT, Finding.FOREIGN_LEDGER),
    "t_ns and its text": (
        _change(t_ns=1_763_665_200_005_000_001, timestamp_iso="2025-11-20T19:00:00.005000001Z"),
        Check.ENTRY,
        Finding.TIMESTAMP_CHANGED,
    ),
    "timestamp text": (
        _change(timestamp_iso="2025-11-20T19:00:00.005000001Z"),
        Check.TIMESTAMP,
        Finding.TIMESTAMP_CHANGED,
    ),
    "payload hash": (_change(payload_hash=bytes(32)), Check.STATEMENT, Finding.HASH_CHANGED),
    "receipt hash": (_change(receipt_hash=bytes(32)), Check.ENTRY, Finding.HASH_CHANGED),
    "sig": (
        _change_signature(sig=_flip(RECEIPT.signature.sig)),
        Check.WITNESS_SIGNATURE,
        Finding.SIGNATURE_CHANGED,
    ),
    "body": (
        _change_signature(body=RECEIPT.signature.body.replace(b'"size":"4"', b'"size":"5"')),
        Check.WITNESS_SIGNATURE,
        Finding.SIGNATURE_CHANGED,
    ),
    "index": (_change_signature(index=3), Check.STATEMENT, Finding.STATEMENT_CHANGED),
    "kid": (_change(kid="witness-2"), Check.WITNESS_SIGNATURE, Finding.SIGNATURE_CHANGED),
    "suite": (_change(suite="fips"), Check.WITNESS_SIGNATURE, Finding.HASH_CHANGED),
    "log index": (_change_proof(log_index=3), Check.INCLUSION, Finding.PROOF_INVALID),
    "proof hashes": (_change_proof(hashes=()), Check.INCLUSION, Finding.PROOF_INVALID),
    "origin": (
        _change_proof(origin="elsewhere.test/log"),
        Check.CHECKPOINT_SIGNATURE,
        Finding.SIGNATURE_CHANGED,
    ),
    "checkpoint": (
        _change_proof(checkpoint=CHAIN.checkpoint().replace(b"\n10\n", b"\n11\n")),
        Check.CHECKPOINT_SIGNATURE,
        Finding.SIGNATURE_CHANGED,
    ),
    "evidence": (
        _change_proof(
            evidence=(
                dataclasses.replace(RECEIPT.proofs[0].evidence[0], evidence=b'{"sha256":"00"}'),
            )
        ),
        Check.SINK_EVIDENCE,
        Finding.PROOF_INVALID,
    ),
}


@pytest.mark.parametrize("case", TAMPERED, ids=str)
def test_each_change_is_found_and_named(case):
    change, check, finding = TAMPERED[case]
    changed = change(RECEIPT)
    assert changed != RECEIPT
    with pytest.raises(VerificationError) as caught:
        verify_receipt(changed, KEYS)
    assert (caught.value.check, caught.value.finding) == (check, finding)
    assert caught.value.receipt == changed.name


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (key_set(witness="witness-2"), "unknown kid"),
        (key_set(not_after_ns=1), "retired before it signed"),
        (key_set(not_before_ns=2**62), "not yet valid when it signed"),
    ],
    ids=["unknown", "retired", "early"],
)
def test_a_signature_by_a_key_that_was_not_valid_is_told_apart(keys, why):
    with pytest.raises(VerificationError) as caught:
        verify_receipt(RECEIPT, keys)
    assert caught.value.finding == Finding.KEY_NOT_VALID, why


@pytest.mark.parametrize("origin", ["", "a b", "provledger.test/log+x", "two\nlines"])
def test_an_origin_that_no_log_can_have_is_a_change_and_not_a_fault_of_the_input(origin):
    """No key can be named so: that must not stop the search for who signed it."""
    changed = _change_proof(origin=origin)(RECEIPT)
    for source in (changed, changed.encode()):
        with pytest.raises(VerificationError) as caught:
            verify_receipt(source, KEYS)
        found = (caught.value.check, caught.value.finding)
        assert found == (Check.CHECKPOINT_SIGNATURE, Finding.SIGNATURE_CHANGED)


def test_a_signature_by_a_stolen_label_does_not_verify():
    """The kid and the thumbprint are right, the signature is another key's."""
    chain = Chain()
    chain.append([mutation(1)], kid="witness-1", signer="thief")
    with pytest.raises(VerificationError) as caught:
        verify_receipt(chain.receipts()[1], KEYS)
    assert caught.value.check == Check.WITNESS_SIGNATURE


def test_a_checkpoint_key_cannot_stand_in_for_a_witness_key():
    chain = Chain()
    chain.append([mutation(1)], kid="checkpoint-1")
    with pytest.raises(VerificationError) as caught:
        verify_receipt(chain.receipts()[1], KEYS)
    assert caught.value.finding == Finding.KEY_NOT_VALID


def test_a_checkpoint_by_a_key_that_the_set_does_not_have_is_told_from_a_changed_one():
    """As with a key set from before a rotation: no signature was verified, and none found wrong."""
    chain = sample_chain()
    rotated = chain.checkpoint(log_key="checkpoint-2")
    verifier = Verifier(KEYS)
    with pytest.raises(UnknownKeyError, match="that is in the given key set") as unknown:
        verifier.open_checkpoint(rotated, ORIGIN)
    assert unknown.value.check == Check.CHECKPOINT_SIGNATURE
    assert unknown.value.finding == Finding.KEY_NOT_VALID
    good = chain.checkpoint()
    text, _, line = rotated.partition(b"\n\n")
    neighbours = {
        "a known key's line, wrong": good.replace(b"\n10\n", b"\n11\n"),
        "beside a stranger's": good.replace(b"\n10\n", b"\n11\n") + line,
        "of another origin": rotated.replace(ORIGIN.encode(), b"provledger.test/other"),
        "another's text, our name": rotated.replace(ORIGIN.encode(), b"provledger.test/other", 1),
        "nobody of that name signed": text + b"\n\n" + line.replace(ORIGIN.encode(), b"someone"),
        "no note": text,
    }
    for what, data in neighbours.items():
        with pytest.raises(VerificationError) as caught:
            verifier.open_checkpoint(data, ORIGIN)
        assert not isinstance(caught.value, UnknownKeyError), what
        assert caught.value.finding == Finding.SIGNATURE_CHANGED, what
    assert verifier.open_checkpoint(good + line, ORIGIN).size == 10


@pytest.mark.parametrize("member", sorted(RECEIPT.to_json_value()))
def test_a_missing_member_is_named(member):
    value = RECEIPT.to_json_value()
    del value[member]
    if member == "schema":
        value.pop("suite")
    with pytest.raises(VerificationError) as caught:
        verify_receipt(value, KEYS)
    assert caught.value.check == Check.FORMAT
    assert member in str(caught.value)


def test_an_unknown_member_is_refused():
    with pytest.raises(ReceiptFormatError, match="note"):
        parse_receipt(RECEIPT.to_json_value() | {"note": "harmless"})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_bit_of_a_receipt_passes(data):
    """What is left over must be a different spelling that no export accepts."""
    line = RECEIPT.encode()
    position = data.draw(st.integers(0, len(line) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = line[:position] + bytes([line[position] ^ (1 << bit)]) + line[position + 1 :]
    try:
        report = verify_receipt(changed, KEYS)
    except VerificationError:
        return
    before, after = orjson.loads(line), orjson.loads(changed)
    if before["proofs"][0]["evidence"][0]["kind"] != after["proofs"][0]["evidence"][0]["kind"]:
        outcomes = {result.check: result.outcome for result in report.results}
        assert outcomes[Check.SINK_EVIDENCE] is Outcome.NOT_CHECKED
    for proof in (*before["proofs"], *after["proofs"]):
        # A sink's name and its clock are claims: only an export's digest holds them.
        for item in proof["evidence"]:
            item["sink"] = item["kind"] = item["acknowledgedAtNs"] = ""
    assert before == after
