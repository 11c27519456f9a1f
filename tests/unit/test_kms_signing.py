"""Typed signing: the bytes are built here, and no wrong signature gets out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from provledger import checkpoint, dsse, head, note, witness_batch
from provledger.errors import CheckpointError, NoteError, ReceiptFormatError
from provledger.jwk import Algorithm, PublicKey, UnsupportedKeyError, thumbprint_of
from provledger.keyset import KeyPurpose, VerificationKey
from provledger.kms import Signer, local, signing
from provledger.kms.errors import KMSConfigError, KMSIntegrityError

ORIGIN = "log.example/1"
ROOT = bytes(range(32))


@pytest.fixture(params=Algorithm)
def signer(request: pytest.FixtureRequest, tmp_path: Path) -> Signer:
    path = tmp_path / "key.pem"
    local.create_key(path, request.param)
    return local._open("local:key.pem", path, None)


@pytest.fixture(params=[Algorithm.ED25519, Algorithm.ECDSA_P256])
def log_signer(request: pytest.FixtureRequest, tmp_path: Path) -> Signer:
    """A key of a kind that signed notes know."""
    path = tmp_path / "log.pem"
    local.create_key(path, request.param)
    return local._open("local:log.pem", path, None)


@dataclass
class TamperingSigner:
    """A provider that answers with something else than was asked for."""

    inner: Signer
    message: bytes | None = None
    uri: str = "local:key.pem"

    @property
    def algorithm(self) -> Algorithm:
        return self.inner.algorithm

    @property
    def public_key(self) -> PublicKey:
        return self.inner.public_key

    async def sign(self, message: bytes) -> bytes:
        return await self.inner.sign(message + b"!" if self.message is None else self.message)

    async def close(self) -> None:
        pass


def key_of(signer: Signer) -> VerificationKey:
    return VerificationKey.from_public_key(signer.public_key, kid="k-1", purpose=KeyPurpose.WITNESS)


def batch_body(signer: Signer, **changes: Any) -> bytes:
    batch = witness_batch.WitnessBatch(
        suite="blake3",
        root=ROOT,
        size=3,
        kid="k-1",
        thumbprint=thumbprint_of(signer.public_key),
        epoch=1,
        signed_at_ns=1_763_665_200_000_000_000,
    )
    return replace(batch, **changes).encode()


def head_body() -> bytes:
    return head.Head(
        ledger_uid=bytes(16),
        seq=5,
        receipt_hash=ROOT,
        log_index=6,
        origin=ORIGIN,
        size=7,
        root=ROOT,
        kid="k-1",
        epoch=1,
        signed_at_ns=1_763_665_200_000_000_000,
    ).encode()


async def test_witness_batch_is_signed_as_dsse(signer: Signer) -> None:
    body = batch_body(signer)
    signature = await signing.sign_witness_batch(signer, body)
    key_of(signer).verify(
        signature, dsse.pae("application/vnd.provledger.witness-batch.v1+json", body)
    )


async def test_head_is_signed_as_dsse(signer: Signer) -> None:
    body = head_body()
    signature = await signing.sign_head(signer, body)
    key_of(signer).verify(signature, dsse.pae("application/vnd.provledger.head.v1+json", body))


@pytest.mark.parametrize("body", [b"", b"{}", b"log.example/1\n7\nAAAA\n"])
async def test_bytes_of_the_callers_choice_are_not_signed(signer: Signer, body: bytes) -> None:
    with pytest.raises(ReceiptFormatError):
        await signing.sign_witness_batch(signer, body)
    with pytest.raises(ReceiptFormatError):
        await signing.sign_head(signer, body)


async def test_batch_that_names_another_key_is_not_signed(signer: Signer) -> None:
    with pytest.raises(KMSConfigError, match="another key"):
        await signing.sign_witness_batch(signer, batch_body(signer, thumbprint=bytes(32)))


async def test_checkpoint_is_a_note_that_our_vkey_opens(log_signer: Signer) -> None:
    data = await signing.sign_checkpoint(log_signer, ORIGIN, 7, ROOT)
    vkey = key_of(log_signer).vkey(ORIGIN)
    assert note.parse_vkey(vkey).name == ORIGIN
    parsed, _ = checkpoint.open_checkpoint(data, [vkey], ORIGIN, exact=True)
    assert (parsed.origin, parsed.size, parsed.root) == (ORIGIN, 7, ROOT)


@pytest.mark.parametrize(
    ("origin", "size", "root", "error"),
    [
        ("", 7, ROOT, CheckpointError),
        ("a\nb", 7, ROOT, CheckpointError),
        ("log example", 7, ROOT, NoteError),
        ("log+example", 7, ROOT, NoteError),
        (ORIGIN, -1, ROOT, CheckpointError),
        (ORIGIN, 2**63, ROOT, CheckpointError),
        (ORIGIN, 7, ROOT[:31], CheckpointError),
    ],
)
async def test_values_that_make_no_checkpoint_are_not_signed(
    log_signer: Signer, origin: str, size: int, root: bytes, error: type[Exception]
) -> None:
    silent = TamperingSigner(log_signer)
    with pytest.raises(error):
        await signing.sign_checkpoint(silent, origin, size, root)


@pytest.mark.parametrize(
    "algorithm", [Algorithm.ECDSA_P384, Algorithm.ML_DSA_44, Algorithm.ML_DSA_65]
)
async def test_checkpoint_is_not_signed_by_keys_that_notes_do_not_know(
    algorithm: Algorithm, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    local.create_key(path, algorithm)
    silent = TamperingSigner(local._open("local:key.pem", path, None))
    with pytest.raises(UnsupportedKeyError, match="must be Ed25519 or P-256"):
        await signing.sign_checkpoint(silent, ORIGIN, 7, ROOT)


async def test_wrong_signature_goes_nowhere(signer: Signer, log_signer: Signer) -> None:
    wrong = TamperingSigner(signer)
    for attempt in (
        signing.sign_witness_batch(wrong, batch_body(signer)),
        signing.sign_head(wrong, head_body()),
        signing.sign_checkpoint(TamperingSigner(log_signer), ORIGIN, 7, ROOT),
        signing.self_test(wrong, signer.public_key),
    ):
        with pytest.raises(KMSIntegrityError, match="does not verify"):
            await attempt


async def test_self_test_passes_for_the_registered_key(signer: Signer) -> None:
    await signing.self_test(signer, signer.public_key)


async def test_self_test_finds_another_key(signer: Signer, tmp_path: Path) -> None:
    other = local.create_key(tmp_path / "another.pem")
    with pytest.raises(KMSIntegrityError, match="not the registered one"):
        await signing.self_test(signer, other)


async def test_self_test_finds_an_old_answer_repeated(signer: Signer) -> None:
    repeating = TamperingSigner(signer, message=b"provledger/self-test/v1\n" + b"0" * 64)
    with pytest.raises(KMSIntegrityError, match="does not verify"):
        await signing.self_test(repeating, signer.public_key)


async def test_self_test_message_is_no_note_and_no_pae(signer: Signer) -> None:
    signed: list[bytes] = []

    class Recorder(TamperingSigner):
        async def sign(self, message: bytes) -> bytes:
            signed.append(message)
            return await self.inner.sign(message)

    await signing.self_test(Recorder(signer), signer.public_key)
    assert not signed[0].startswith(b"DSSEv1 ")
    assert not signed[0].endswith(b"\n")
