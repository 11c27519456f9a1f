"""What others say of a receipt's checkpoint: believed only if the verifier says whom to believe."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from anchor_svc.sinks import PublishedCheckpoint, open_sink
from notary_svc.signing import Cosigner
from provledger import checkpoint, jcs, note, timestamp
from provledger.errors import VerificationError
from provledger.export import verify_export
from provledger.outside import ObjectLock, Outside, cosigned_checkpoint
from provledger.policy import parse_policy
from provledger.receipt import Evidence, Receipt
from provledger.report import Check, Outcome, Status
from provledger.verify import Verifier, verify_receipt
from tests.support import peers
from tests.support.chain import key_set, sample_chain, with_changes
from tests.support.notary import NOTARY, NOW_S

KEYS = key_set()
RECEIPT = sample_chain().receipts()[5]
PROOF = RECEIPT.proofs[0]
SIZE = int(PROOF.checkpoint.split(b"\n")[1])


@pytest.fixture(scope="module")
def cosigner(tmp_path_factory: pytest.TempPathFactory) -> Cosigner:
    return Cosigner.open(NOTARY, tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> peers.OpenSSLAuthority:
    return peers.OpenSSLAuthority(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> peers.OpenSSLAuthority:
    return peers.OpenSSLAuthority(tmp_path_factory.mktemp("other"))


def _with(*evidence: tuple[str, bytes], sink: str = "sink:one") -> Receipt:
    items = tuple(Evidence(sink, kind, 1, data) for kind, data in evidence)
    return with_changes(RECEIPT, proofs=(dataclasses.replace(PROOF, evidence=items),))


def _cosigned(cosigner: Cosigner, text: bytes | None = None) -> bytes:
    body = note.parse(PROOF.checkpoint).text if text is None else text
    return PROOF.checkpoint + b"".join(cosigner.cosign(body, NOW_S))


def _policy(cosigner: Cosigner, rest: str) -> Outside:
    lines = "".join(f"witness {n} {vkey}\n" for n, vkey in zip("ab", cosigner.vkeys, strict=True))
    return Outside(parse_policy((lines + rest).encode()))


def _outcome(receipt: Receipt, outside: Outside, check: Check) -> tuple[Outcome, Status]:
    report = verify_receipt(receipt, KEYS, outside)
    found = {result.check: result.outcome for result in report.results}
    return found[check], report.status


def _stamped(authority: peers.OpenSSLAuthority, message: bytes) -> bytes:
    request = timestamp.build_request(message)
    reply = authority.answer("", request.der)[2]
    return timestamp.encode_evidence(request, reply, _authority(authority))


def _authority(authority: peers.OpenSSLAuthority) -> timestamp.Authority:
    return timestamp.Authority.from_pem(authority.cert.read_bytes(), authority.chain.read_bytes())


def test_nobody_is_believed_unless_named(cosigner: Cosigner) -> None:
    receipt = _with(("tlog-cosignature", _cosigned(cosigner)))
    outcome, status = _outcome(receipt, Outside(), Check.COSIGNER_QUORUM)
    assert (outcome, status) == (Outcome.NOT_CHECKED, Status.VERIFIED)
    assert _outcome(receipt, Outside(), Check.SINK_EVIDENCE)[0] is Outcome.HOLDS


@pytest.mark.parametrize(
    ("rest", "met"),
    [
        ("quorum a\n", True),
        ("group g all a b\nquorum g\n", True),
        ("sink s sink:one\ngroup g all a s\nquorum g\n", False),
        ("quorum none\n", True),
    ],
)
def test_quorum_of_cosigners(cosigner: Cosigner, rest: str, met: bool) -> None:
    """A sink that nothing can be checked of is the operator's word, and does not count."""
    receipt = _with(("tlog-cosignature", _cosigned(cosigner)))
    outcome, status = _outcome(receipt, _policy(cosigner, rest), Check.COSIGNER_QUORUM)
    assert outcome is (Outcome.HOLDS if met else Outcome.NOT_CHECKED)
    assert status is (Status.VERIFIED if met else Status.UNVERIFIED)


def test_asked_for_and_not_there_is_unverified(
    cosigner: Cosigner, authority: peers.OpenSSLAuthority
) -> None:
    asked = [
        (_policy(cosigner, "quorum a\n"), Check.COSIGNER_QUORUM),
        (Outside(authorities=(_authority(authority),)), Check.TIMESTAMP_TOKEN),
        (Outside(ask_store=lambda lock, signed: None), Check.OBJECT_LOCK),
    ]
    for outside, check in asked:
        assert _outcome(RECEIPT, outside, check) == (Outcome.NOT_CHECKED, Status.UNVERIFIED)


def test_log_of_a_policy_must_have_signed(cosigner: Cosigner) -> None:
    from tests.support.notary import TinyLog

    receipt = _with(("tlog-cosignature", _cosigned(cosigner)))
    other = _policy(cosigner, f"log {TinyLog('other.test').vkey}\nquorum a\n")
    assert _outcome(receipt, other, Check.COSIGNER_QUORUM)[1] is Status.UNVERIFIED
    forged = _policy(cosigner, f"log {TinyLog(PROOF.origin).vkey}\nquorum a\n")
    with pytest.raises(VerificationError) as caught:
        Verifier(KEYS, forged).verify(receipt)
    assert caught.value.check == Check.COSIGNER_QUORUM


def test_forged_cosignature_fails(cosigner: Cosigner) -> None:
    name, key_id = sorted(cosigner.names)[0]
    forged = PROOF.checkpoint + note.signature_line(name, key_id, bytes(8) + bytes(64))
    with pytest.raises(VerificationError) as caught:
        Verifier(KEYS, _policy(cosigner, "quorum a\n")).verify(_with(("tlog-cosignature", forged)))
    assert caught.value.check == Check.COSIGNER_QUORUM


def test_timestamp_counts_with_its_authority(
    cosigner: Cosigner, authority: peers.OpenSSLAuthority
) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    receipt = _with(("rfc3161", _stamped(authority, message)))
    trusted = Outside(authorities=(_authority(authority),))
    holds = (Outcome.HOLDS, Status.VERIFIED)
    assert _outcome(receipt, trusted, Check.TIMESTAMP_TOKEN) == holds
    assert _outcome(receipt, Outside(), Check.TIMESTAMP_TOKEN)[0] is Outcome.NOT_CHECKED
    policy = parse_policy(b"sink stamp sink:one\nquorum stamp\n")
    both = Outside(policy, (_authority(authority),))
    assert _outcome(receipt, both, Check.COSIGNER_QUORUM) == holds
    assert _outcome(receipt, Outside(policy), Check.COSIGNER_QUORUM)[1] is Status.UNVERIFIED


class TestSinksOfTimestamps:
    """A token's sink is a word of the operator: each authority counts for one sink only."""

    POLICY = parse_policy(
        b"sink a sink:a\nsink b sink:b\nsink c sink:c\ngroup both all a b\nquorum both\n"
    )

    def _judge(
        self,
        believed: tuple[peers.OpenSSLAuthority, ...],
        *tokens: tuple[str, bytes],
    ) -> tuple[Status, str]:
        items = tuple(Evidence(sink, "rfc3161", 1, data) for sink, data in tokens)
        receipt = with_changes(RECEIPT, proofs=(dataclasses.replace(PROOF, evidence=items),))
        outside = Outside(self.POLICY, tuple(map(_authority, believed)))
        report = verify_receipt(receipt, KEYS, outside)
        details = {result.check: result.detail for result in report.results}
        return report.status, details[Check.COSIGNER_QUORUM]

    def test_one_token_is_not_two_sinks(
        self, authority: peers.OpenSSLAuthority, other: peers.OpenSSLAuthority
    ) -> None:
        message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
        token = _stamped(authority, message)
        for believed in ((authority,), (authority, other), (authority, authority)):
            judged = self._judge(believed, ("sink:a", token), ("sink:b", token))
            assert judged == (Status.UNVERIFIED, "not met: it has a")

    def test_two_tokens_of_one_authority_are_not_two_sinks(
        self, authority: peers.OpenSSLAuthority
    ) -> None:
        message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
        one, two = _stamped(authority, message), _stamped(authority, message)
        judged = self._judge((authority,), ("sink:b", one), ("sink:a", two))
        assert judged == (Status.UNVERIFIED, "not met: it has b")

    def test_two_authorities_are_two_sinks(
        self, authority: peers.OpenSSLAuthority, other: peers.OpenSSLAuthority
    ) -> None:
        """Whatever else their tokens are said to be of, if the quorum does not ask for it."""
        message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
        one, two = _stamped(authority, message), _stamped(other, message)
        for tokens in (
            [("sink:a", one), ("sink:b", two)],
            [("sink:a", one), ("sink:a", two), ("sink:b", two)],
            [("sink:c", one), ("elsewhere", two), ("sink:b", two), ("sink:a", one)],
        ):
            judged = self._judge((authority, other), *tokens)
            assert judged == (Status.VERIFIED, "a, b")


def test_timestamps_of_others_count_for_nothing_beside_one_that_verifies(
    authority: peers.OpenSSLAuthority, other: peers.OpenSSLAuthority
) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    tokens = [("rfc3161", _stamped(by, message)) for by in (authority, other)]
    in_one_proof = _with(*tokens)
    in_two = with_changes(RECEIPT, proofs=tuple(_with(token).proofs[0] for token in tokens))
    holds = (Outcome.HOLDS, Status.VERIFIED)
    for receipt in (in_one_proof, in_two):
        for believed in ((authority,), (other,), (authority, other)):
            outside = Outside(authorities=tuple(map(_authority, believed)))
            assert _outcome(receipt, outside, Check.TIMESTAMP_TOKEN) == holds


def _damaged(evidence: bytes) -> bytes:
    """A token of which the response is cut off; all that names the checkpoint is there."""
    value: Any = jcs.parse(evidence)
    return jcs.encode({**value, "response": value["response"][:200]})


def test_damaged_timestamp_beside_a_good_one_is_named(authority: peers.OpenSSLAuthority) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    good = _stamped(authority, message)
    outside = Outside(authorities=(_authority(authority),))

    def found(*tokens: bytes) -> tuple[Status, str]:
        receipt = _with(*(("rfc3161", token) for token in tokens))
        report = verify_receipt(receipt, KEYS, outside)
        (result,) = [each for each in report.results if each.check == Check.TIMESTAMP_TOKEN]
        return report.status, result.detail

    status, alone = found(good)
    assert (status, ";" in alone) == (Status.VERIFIED, False)
    for tokens in ((good, _damaged(good)), (_damaged(good), good)):
        named = f"{alone}; another token does not count: the timestamp response cannot be read"
        assert found(*tokens) == (Status.VERIFIED, named)
    status, several = found(good, _damaged(good), _damaged(good))
    assert (status, "; 2 others do not count: " in several) == (Status.VERIFIED, True)


def test_damaged_timestamp_in_the_midst_of_an_export_is_named(
    authority: peers.OpenSSLAuthority,
) -> None:
    chain = sample_chain()
    receipts = chain.receipts()
    proof = receipts[0].proofs[0]
    good = _stamped(authority, timestamp.imprint_message(proof.checkpoint, proof.origin))

    def with_tokens(receipt: Receipt, *tokens: bytes) -> Receipt:
        items = tuple(Evidence("sink:one", "rfc3161", 1, token) for token in tokens)
        (own,) = receipt.proofs
        return with_changes(receipt, proofs=(dataclasses.replace(own, evidence=items),))

    stamped = [with_tokens(each, good) for each in receipts]
    stamped[4] = with_tokens(receipts[4], good, _damaged(good))
    outside = Outside(authorities=(_authority(authority),))
    report = verify_export(chain.export(stamped), KEYS, outside=outside)
    (result,) = [each for each in report.results if each.check == Check.TIMESTAMP_TOKEN]
    assert report.status is Status.VERIFIED
    assert "another token does not count" in result.detail


def test_timestamp_of_another_authority_fails(
    authority: peers.OpenSSLAuthority, tmp_path: Path
) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    other = peers.OpenSSLAuthority(tmp_path / "other")
    receipt = _with(("rfc3161", _stamped(other, message)))
    with pytest.raises(VerificationError) as caught:
        Verifier(KEYS, Outside(authorities=(_authority(authority),))).verify(receipt)
    assert caught.value.check == Check.TIMESTAMP_TOKEN


def _file(**more: str) -> bytes:
    name = f"{quote(PROOF.origin, safe='')}/{SIZE:020}.checkpoint"
    digest = hashlib.sha256(PROOF.checkpoint).hexdigest()
    return jcs.encode({"name": name, "sha256": digest, "size": str(SIZE), **more})


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
async def test_a_receipt_that_is_in_a_git_repository_verifies(tmp_path: Path) -> None:
    stated = checkpoint.parse(note.parse(PROOF.checkpoint).text)
    sink = open_sink(f"file://{tmp_path}/anchors?git=1")
    evidence = await sink.anchor(
        PublishedCheckpoint(stated.origin, stated.size, stated.root, PROOF.checkpoint)
    )
    await sink.close()
    assert b'"commit"' in evidence.data
    found = _outcome(_with((evidence.kind, evidence.data)), Outside(), Check.SINK_EVIDENCE)
    assert found == (Outcome.HOLDS, Status.VERIFIED)


@pytest.mark.parametrize("commit", ["0f" * 20, "0f" * 32])
def test_evidence_of_a_file_may_name_its_commit(commit: str) -> None:
    Verifier(KEYS).verify(_with(("file", _file(commit=commit))))


def _lock(**changes: Any) -> bytes:
    value = {
        "v": "1",
        "bucket": "audit",
        "key": "a/b",
        "versionId": "v1",
        "mode": "COMPLIANCE",
        "retainUntilUnixS": "1900000000",
        "legalHold": False,
        "sha256": hashlib.sha256(PROOF.checkpoint).hexdigest(),
        "size": str(SIZE),
    }
    return jcs.encode({**value, **changes})


def test_locked_copy_is_asked_for_online_only() -> None:
    receipt = _with(("s3-object-lock", _lock()))
    assert _outcome(receipt, Outside(), Check.OBJECT_LOCK)[0] is Outcome.NOT_CHECKED
    asked: list[tuple[ObjectLock, bytes]] = []
    online = Outside(ask_store=lambda lock, signed: asked.append((lock, signed)))
    holds = (Outcome.HOLDS, Status.VERIFIED)
    assert _outcome(receipt, online, Check.OBJECT_LOCK) == holds
    assert asked[0][0].version_id == "v1"
    assert asked[0][1] == PROOF.checkpoint


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("file", b"{}"),
        ("file", b"[]"),
        ("file", b'"commit"'),
        ("file", _file(more="x")),
        ("file", _file(size="1")),
        ("file", _file().replace(b":", b": ")),
        ("file", _file(commit="")),
        ("file", _file(commit="0F" * 20)),
        ("file", _file(commit="0f" * 20 + "\n")),
        ("file", _file(commit="0f" * 31)),
        ("tlog-cosignature", b"garbage"),
        ("tlog-cosignature", PROOF.checkpoint.replace(b"\n%d\n" % SIZE, b"\n%d\n" % (SIZE + 1), 1)),
        ("rfc3161", b"garbage"),
        ("s3-object-lock", b"garbage"),
        ("s3-object-lock", _lock(size="1")),
        ("s3-object-lock", _lock(sha256="00" * 32)),
        ("s3-object-lock", _lock(more="x")),
    ],
)
def test_evidence_for_another_checkpoint_fails_whoever_is_believed(kind: str, data: bytes) -> None:
    with pytest.raises(VerificationError):
        Verifier(KEYS).verify(_with((kind, data)))


NOT_DECIMAL = ["1_900", " 1900 ", "+19", "-1", "019", "", "\u0661\u0669", "1e9", 1900, True, None]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("retainUntilUnixS", value) for value in NOT_DECIMAL),
        *(("size", value) for value in [*NOT_DECIMAL, f"{SIZE} ", SIZE, "9" * 5000]),
        ("retainUntilUnixS", "253402300800"),
        ("retainUntilUnixS", "9" * 18),
        ("retainUntilUnixS", "9" * 5000),
        ("mode", "GOVERNANCE"),
        ("mode", "compliance"),
        ("mode", None),
        ("legalHold", "true"),
        ("legalHold", 1),
        ("legalHold", None),
        ("v", 1),
        ("bucket", None),
    ],
)
def test_a_lock_in_loose_writing_does_not_hold(member: str, value: Any) -> None:
    receipt = _with(("s3-object-lock", _lock(**{member: value})))
    for outside in (Outside(), Outside(ask_store=lambda lock, signed: None)):
        with pytest.raises(VerificationError) as caught:
            verify_receipt(receipt.encode(), KEYS, outside)
        assert caught.value.check == Check.OBJECT_LOCK


def test_the_last_time_a_lock_can_name() -> None:
    receipt = _with(("s3-object-lock", _lock(retainUntilUnixS="253402300799")))
    report = verify_receipt(receipt, KEYS)
    (said,) = [result.detail for result in report.results if result.check is Check.OBJECT_LOCK]
    assert said == "locked until 9999-12-31, it says, unasked"


@pytest.mark.parametrize(
    "change",
    [
        *({"nonce": value} for value in [*NOT_DECIMAL, "9" * 400]),
        {"imprint": None},
        {"response": "0 0"},
        {"chain": None},
        {"chain": [None]},
        {"chain": ["AB"]},
    ],
)
def test_a_timestamp_in_loose_writing_does_not_hold(
    authority: peers.OpenSSLAuthority, change: dict[str, Any]
) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    value = jcs.parse(_stamped(authority, message))
    receipt = _with(("rfc3161", jcs.encode({**value, **change})))
    for outside in (Outside(), Outside(authorities=(_authority(authority),))):
        with pytest.raises(VerificationError, match="another checkpoint") as caught:
            verify_receipt(receipt.encode(), KEYS, outside)
        assert caught.value.check == Check.SINK_EVIDENCE


@pytest.mark.parametrize("nonce", ["0", "1", str(2**64), str(2**256)])
def test_another_nonce_does_not_hold(authority: peers.OpenSSLAuthority, nonce: str) -> None:
    message = timestamp.imprint_message(PROOF.checkpoint, PROOF.origin)
    value = jcs.parse(_stamped(authority, message))
    receipt = _with(("rfc3161", jcs.encode({**value, "nonce": nonce})))
    with pytest.raises(VerificationError) as caught:
        verify_receipt(receipt, KEYS, Outside(authorities=(_authority(authority),)))
    assert caught.value.check == Check.TIMESTAMP_TOKEN


def test_all_cosignatures_are_exported_once(cosigner: Cosigner) -> None:
    signed = _cosigned(cosigner)
    receipt = _with(("tlog-cosignature", signed), ("tlog-cosignature", signed))
    assert cosigned_checkpoint(receipt.proofs[0]) == signed
    assert cosigned_checkpoint(PROOF) == PROOF.checkpoint
