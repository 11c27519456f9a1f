"""Signing tokens: their bytes, and what a verifier accepts of a batch that carries one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from provledger import dsse, jcs, signing_token
from provledger.errors import KeyFormatError, ReceiptFormatError, VerificationError
from provledger.jwk import Algorithm, jwk_from_public_key, thumbprint_of
from provledger.keyset import CoveredCheckpoint, KeySet, KeyState
from provledger.kms.errors import KMSConfigError
from provledger.kms.local import LocalSigner
from provledger.kms.signing import sign_certificate
from provledger.report import Check, Finding, Status
from provledger.signing_token import MAX_LIFETIME_NS, MAX_USES, Certificate, Token, parse_token
from provledger.verify import Verifier, verify_receipt
from provledger.witness_batch import (
    MAX_BODY_WITH_TOKEN_BYTES,
    PAYLOAD_TYPE,
    WitnessBatch,
    parse_body,
)
from tests.support.chain import START_NS, Chain, key_set, make_token, mutation, private_key

KEYS = key_set()
TOKEN = make_token(use=17)
EC_JWKS = {
    curve: jcs.encode(jwk_from_public_key(ec.derive_private_key(7, curve()).public_key())).decode()
    for curve in (ec.SECP256R1, ec.SECP384R1)
}


def ed25519_jwk(label: str) -> str:
    return jcs.encode(jwk_from_public_key(private_key(label).public_key())).decode()


numbers = st.integers(1, 10**19 - 1)
tokens = st.builds(
    Token,
    st.builds(
        Certificate,
        kid=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
        thumbprint=st.binary(min_size=32, max_size=32),
        epoch=numbers,
        jwk=st.sampled_from([ed25519_jwk("token"), *EC_JWKS.values()]),
        not_before_ns=numbers,
        not_after_ns=numbers,
        max_uses=numbers,
    ),
    st.binary(min_size=1, max_size=128),
    numbers,
)


def test_bytes_of_a_token() -> None:
    key = jwk_from_public_key(private_key("token").public_key())
    jkt = thumbprint_of(private_key("witness-1").public_key()).hex()
    certificate = (
        f'{{"epoch":"1","jkt":"{jkt}","key":{{"crv":"Ed25519","kty":"OKP","x":"{key["x"]}"}},'
        f'"kid":"witness-1","maxUses":"100","notAfterNs":"{START_NS + 200 * 10**9}",'
        f'"notBeforeNs":"{START_NS - 10**9}","purpose":"witness","v":"1"}}'
    )
    assert TOKEN.certificate.encode().decode() == certificate
    assert TOKEN.certificate.pae == dsse.pae(signing_token.PAYLOAD_TYPE, certificate.encode())
    assert TOKEN.encode().decode() == (
        f'{{"cert":{certificate},"sig":"{TOKEN.sig.hex()}","use":"17"}}'
    )


@given(tokens)
def test_bytes_are_canonical_and_read_back(token: Token) -> None:
    data = token.encode()
    assert jcs.encode(jcs.parse(data)) == data
    assert parse_token(data) == token
    batch = WitnessBatch("fips", bytes(32), 1, "k", bytes(32), 1, 1, token)
    body = batch.encode()
    assert jcs.encode(jcs.parse(body)) == body
    assert parse_body(body) == batch
    assert len(body) <= MAX_BODY_WITH_TOKEN_BYTES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"use":"17"', '"use":"0"'),
        ('"use":"17"', '"use":"017"'),
        ('"use":"17"', '"use":17'),
        ('"purpose":"witness"', '"purpose":"head"'),
        ('"v":"1"', '"v":"2"'),
        ('"maxUses":"100"', '"maxUses":"0"'),
        ('"kty":"OKP"', '"kty":"EC"'),
        ('"crv":"Ed25519",', '"alg":"EdDSA","crv":"Ed25519",'),
        ('"sig":"', '"sig":"A'),
        ('"cert":', '"cert": '),
        ('"kid":"witness-1"', '"kid":"wit\\"ness"'),
    ],
)
def test_any_other_text_is_refused(old: str, new: str) -> None:
    text = TOKEN.encode().decode()
    assert old in text
    with pytest.raises(KeyFormatError):
        parse_token(text.replace(old, new).encode())
    body = WitnessBatch("fips", bytes(32), 1, "k", bytes(32), 1, 1, TOKEN).encode().decode()
    with pytest.raises(ReceiptFormatError):
        parse_body(body.replace(old, new).encode())


# --- verification ---


def chain_with(token: Token, *, signer: str = "token", **options: Any) -> Chain:
    """A genesis by the witness key itself, and one batch of two under a token."""
    chain = Chain(**options)
    chain.append([mutation(1), mutation(2)], signer=signer, token=token)
    return chain


def refused(token: Token, *, keys: KeySet = KEYS, **options: Any) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_receipt(chain_with(token, **options).receipts()[1], keys)
    return caught.value


@pytest.mark.parametrize("suite", ["blake3", "blake3-all", "fips"])
def test_receipts_under_a_token_are_verified(suite: str) -> None:
    verifier = Verifier(KEYS)
    details = []
    for receipt in chain_with(TOKEN, suite=suite).receipts():
        assert receipt.kid == "witness-1"
        report = verifier.verify(receipt)
        assert report.status is Status.VERIFIED
        details += [each.detail for each in report.results if each.check is Check.WITNESS_SIGNATURE]
    under_token = "kid witness-1, by use 17 of a signing token"
    assert details == ["kid witness-1", under_token, under_token]


def test_bounds_are_inclusive() -> None:
    at_ns = Chain().now_ns(1)
    windows: list[dict[str, Any]] = [
        {"not_before_ns": at_ns, "not_after_ns": at_ns + MAX_LIFETIME_NS},
        {"not_before_ns": at_ns - MAX_LIFETIME_NS, "not_after_ns": at_ns},
    ]
    for bounds in windows:
        chain = chain_with(make_token(use=5, max_uses=5, **bounds))
        assert verify_receipt(chain.receipts()[1], KEYS).status is Status.VERIFIED


AT_NS = Chain().now_ns(1)
NOT_VALID: dict[str, Any] = {
    "longer than five minutes": {
        "not_before_ns": AT_NS,
        "not_after_ns": AT_NS + MAX_LIFETIME_NS + 1,
    },
    "ends before it begins": {"not_before_ns": AT_NS, "not_after_ns": AT_NS - 1},
    "signed before": {"not_before_ns": AT_NS + 1},
    "signed after": {"not_after_ns": AT_NS - 1},
    "used too often": {"use": 101},
    "too many uses": {"max_uses": MAX_USES + 1},
    "of another algorithm": {"jwk": EC_JWKS[ec.SECP256R1]},
    "no point": {"jwk": '{"crv":"Ed25519","kty":"OKP","x":"' + "A" * 43 + '"}'},
}
CHANGED: dict[str, Any] = {
    "another kid": {"kid": "witness-9", "signer": "witness-1"},
    "another thumbprint": {"thumbprint": bytes(32)},
    "another epoch": {"epoch": 2},
    "certified by somebody else": {"signer": "mallory"},
    "certified by itself": {"signer": "token"},
}


@pytest.mark.parametrize("changes", NOT_VALID.values(), ids=NOT_VALID.keys())
def test_a_token_that_is_not_valid_is_refused(changes: dict[str, Any]) -> None:
    error = refused(make_token(**changes))
    assert (error.check, error.finding) == (Check.KEY_VALIDITY, Finding.KEY_NOT_VALID)


@pytest.mark.parametrize("changes", CHANGED.values(), ids=CHANGED.keys())
def test_a_token_that_is_not_of_the_key_is_refused(changes: dict[str, Any]) -> None:
    error = refused(make_token(**changes))
    assert (error.check, error.finding) == (Check.WITNESS_SIGNATURE, Finding.SIGNATURE_CHANGED)


@pytest.mark.parametrize("bit", range(0, 64 * 8, 37))
def test_a_damaged_certificate_signature_is_refused(bit: int) -> None:
    sig = bytearray(TOKEN.sig)
    sig[bit // 8] ^= 1 << bit % 8
    error = refused(dataclasses.replace(TOKEN, sig=bytes(sig)))
    assert error.check == Check.WITNESS_SIGNATURE


@pytest.mark.parametrize("signer", ["witness-1", "mallory"])
def test_the_batch_must_be_signed_by_the_key_in_memory(signer: str) -> None:
    error = refused(TOKEN, signer=signer)
    assert (error.check, error.finding) == (Check.WITNESS_SIGNATURE, Finding.SIGNATURE_CHANGED)


def test_the_key_in_memory_signs_nothing_without_its_token() -> None:
    chain = Chain()
    chain.append([mutation(1)], signer="token")
    with pytest.raises(VerificationError) as caught:
        verify_receipt(chain.receipts()[1], KEYS)
    assert caught.value.check == Check.WITNESS_SIGNATURE


def test_a_certificate_is_no_batch_and_a_batch_no_certificate() -> None:
    """The two are signed under types of their own, so that neither passes for the other."""
    body = TOKEN.certificate.encode()
    as_batch = private_key("witness-1").sign(dsse.pae(PAYLOAD_TYPE, body))
    error = refused(dataclasses.replace(TOKEN, sig=as_batch))
    assert error.check == Check.WITNESS_SIGNATURE


@pytest.mark.parametrize(
    "validity",
    [{"not_after_ns": AT_NS - 1}, {"not_before_ns": AT_NS}],
    ids=["signed after its issuer ended", "certified before its issuer began"],
)
def test_a_token_counts_within_the_validity_of_its_issuer(validity: dict[str, Any]) -> None:
    error = refused(TOKEN, keys=key_set(**validity))
    assert (error.check, error.finding) == (Check.KEY_VALIDITY, Finding.KEY_NOT_VALID)


def revoked(covered: tuple[CoveredCheckpoint, ...] = ()) -> KeySet:
    return KeySet(
        dataclasses.replace(
            key, state=KeyState.REVOKED, revocation_reason="stolen", covered=covered
        )
        if key.kid == "witness-1"
        else key
        for key in KEYS
    )


def test_a_revoked_key_takes_its_tokens_along() -> None:
    error = refused(TOKEN, keys=revoked())
    assert (error.check, error.finding) == (Check.KEY_VALIDITY, Finding.KEY_NOT_VALID)
    assert "revoked" in error.message


def test_what_an_outside_checkpoint_covers_stands_under_a_token_too() -> None:
    from provledger import checkpoint, note

    chain = chain_with(TOKEN)
    chain.append([mutation(3)], signer="token", token=make_token(use=18))
    held = checkpoint.parse(note.parse(chain.checkpoint(4)).text)
    keys = revoked((CoveredCheckpoint(held.origin, held.size, held.root),))
    assert verify_receipt(chain.receipts(4)[1], keys).status is Status.VERIFIED
    with pytest.raises(VerificationError, match="after the checkpoint"):
        verify_receipt(chain.receipts()[3], keys)


def test_two_batches_that_are_the_same_use_are_found() -> None:
    """A thief of the key in memory cannot know which numbers its owner has used."""
    chain = chain_with(TOKEN)
    chain.append([mutation(3)], signer="token", token=make_token(use=18))
    chain.append([mutation(4)], signer="token", token=TOKEN)
    receipts = chain.receipts()
    verifier = Verifier(KEYS)
    for receipt in (*receipts[:4], *receipts[:4]):
        assert verifier.verify(receipt).status is Status.VERIFIED
    with pytest.raises(VerificationError, match="its key was copied") as caught:
        verifier.verify(receipts[4])
    assert caught.value.finding == Finding.KEY_NOT_VALID
    assert caught.value.receipt == receipts[4].name


def test_uses_are_remembered_up_to_a_bound() -> None:
    seen = signing_token.UsesSeen(max_uses=2)
    for use in (1, 2, 3):
        seen.note(dataclasses.replace(TOKEN, use=use), bytes([use]) * 32)
    with pytest.raises(VerificationError):
        seen.note(dataclasses.replace(TOKEN, use=3), bytes(32))
    seen.note(dataclasses.replace(TOKEN, use=1), bytes(32))


# --- certifying ---


def local(label: str) -> LocalSigner:
    key = private_key(label)
    return LocalSigner(f"test:{label}", Algorithm.ED25519, key.public_key(), key)


async def test_a_certificate_is_signed_in_the_name_of_its_own_key_only() -> None:
    sig = await sign_certificate(local("witness-1"), TOKEN.certificate)
    assert sig == TOKEN.sig
    with pytest.raises(KMSConfigError, match="not in the name"):
        await sign_certificate(local("witness-2"), TOKEN.certificate)


@pytest.mark.parametrize(
    "changes",
    [{"not_after_ns": START_NS + 400 * 10**9}, {"max_uses": MAX_USES + 1}, {"max_uses": 0}],
)
async def test_a_certificate_that_asks_for_too_much_is_not_signed(changes: Any) -> None:
    with pytest.raises(KeyFormatError):
        await sign_certificate(
            local("witness-1"), dataclasses.replace(TOKEN.certificate, **changes)
        )


async def test_a_certificate_for_another_algorithm_is_not_signed() -> None:
    certificate = dataclasses.replace(TOKEN.certificate, jwk=EC_JWKS[ec.SECP256R1])
    with pytest.raises(KMSConfigError, match="certifies no tokens"):
        await sign_certificate(local("witness-1"), certificate)
