"""What our keys sign, and nothing else: each function builds the signed bytes itself.

=====================  =========================================================  ===========
function               signed bytes                                               purpose
=====================  =========================================================  ===========
sign_witness_batch     DSSE PAE over `provledger.witness_batch`                   witness, token
sign_certificate       DSSE PAE over `provledger.signing_token.Certificate`       witness
sign_head              DSSE PAE over `provledger.head`                            head
sign_cose_receipt      COSE Sig_structure over `provledger.cose_receipt`          receipt
sign_key_event         DSSE PAE over `provledger.key_events`, or over its SHA-256  any: its own
sign_checkpoint        text of a C2SP checkpoint, note type 0x01 or 0x02          checkpoint
self_test              a line that is none of the above                           any
=====================  =========================================================  ===========

So a key can never be brought to sign bytes that a caller chose (design §6). Every signature is
verified before it is returned: a wrong one is KMSIntegrityError and goes nowhere. Other failures
are the signer's own KMSError. That the state behind a checkpoint is stored first, and that a key
is used for its own purpose only, is up to the callers (`anchor_svc`, `provledger.keyring`).
"""

from __future__ import annotations

import secrets
from typing import Final

from provledger import (
    checkpoint,
    cose_receipt,
    dsse,
    head,
    key_events,
    note,
    signing_token,
    witness_batch,
)
from provledger.errors import InvalidSignatureError, NoteError
from provledger.fips import policy
from provledger.fips.pairwise import pairwise_test
from provledger.jwk import (
    PublicKey,
    algorithm_of,
    raw_public_bytes,
    thumbprint_of,
    verify_signature,
)
from provledger.keyset import note_type
from provledger.kms.base import Signer
from provledger.kms.errors import KMSConfigError, KMSIntegrityError, KMSMessageTooLongError

# No PAE and no Sig_structure, which begin otherwise, and no note text, which ends in a newline.
_SELF_TEST: Final = b"provledger/self-test/v1\n"


async def sign_witness_batch(signer: Signer, body: bytes) -> bytes:
    """Return the signature over the PAE of a witness batch `body`.

    Raises ReceiptFormatError for other bytes, KMSConfigError for a body that names another key,
    and what `Signer.sign` raises.
    """
    batch = witness_batch.parse_body(body)
    named = batch.thumbprint
    if batch.token is not None:
        named = thumbprint_of(batch.token.certificate.public_key)
    if named != thumbprint_of(signer.public_key):
        raise KMSConfigError(f"the witness batch names another key than the one of kid {batch.kid}")
    return await _sign(signer, dsse.pae(witness_batch.PAYLOAD_TYPE, body))


async def sign_certificate(signer: Signer, certificate: signing_token.Certificate) -> bytes:
    """Return the signature over the PAE of the certificate of a signing token.

    Raises KeyFormatError for one that asks for too much, KMSConfigError for one in the name of
    another key or for an algorithm that has no tokens, and what `Signer.sign` raises.
    """
    certificate.check_bounds()
    if certificate.thumbprint != thumbprint_of(signer.public_key):
        raise KMSConfigError(f"the certificate is not in the name of kid {certificate.kid}")
    in_memory = algorithm_of(certificate.public_key)
    if signer.algorithm not in signing_token.ALGORITHMS or in_memory is not signer.algorithm:
        raise KMSConfigError(f"kid {certificate.kid}: a {signer.algorithm} key certifies no tokens")
    return await _sign(signer, certificate.pae)


async def sign_head(signer: Signer, body: bytes) -> bytes:
    """Return the signature over the PAE of a head `body`; raises as `sign_witness_batch` does."""
    head.parse_head(body)
    return await _sign(signer, dsse.pae(head.PAYLOAD_TYPE, body))


async def sign_cose_receipt(
    signer: Signer, kid: str, origin: str, size: int, root: bytes
) -> tuple[bytes, bytes]:
    """Return protected header and signature of receipts for the tree of `size` and `root`.

    Raises CoseReceiptError for values that make none, and what `Signer.sign` raises.
    """
    protected = cose_receipt.protected_header(signer.algorithm, kid, origin, size)
    signature = await _sign(signer, cose_receipt.signed_bytes(protected, root))
    return protected, cose_receipt.cose_signature(signer.algorithm, signature)


async def sign_key_event(signer: Signer, event: key_events.KeyEvent) -> bytes:
    """Return the signature over the PAE of a key event, whose bytes are made here.

    Where they are more than the signer takes, of the PAE of their digest: an event of a checkpoint
    key names every log. Raises KeyFormatError for values that make no event, and what
    `Signer.sign` raises.
    """
    body = key_events.parse_event(event.to_json()).encode()
    try:
        return await _sign(signer, key_events.whole_pae(body))
    except KMSMessageTooLongError:
        return await _sign(signer, key_events.digest_pae(body))


async def sign_checkpoint(signer: Signer, origin: str, size: int, root: bytes) -> bytes:
    """Return a signed note: the three lines of the checkpoint and one signature line.

    The key's name is `origin`, `root` is 32 bytes. Raises CheckpointError or NoteError for values
    that make no checkpoint, and what `Signer.sign` raises.
    """
    text = checkpoint.format(origin, size, root)
    raw = raw_public_bytes(signer.public_key)
    key_id = note.note_key_id(origin, note_type(signer.algorithm), raw)
    if not note.is_key_name(origin):
        # Asked before signing: there should be no signature that cannot be released.
        raise NoteError("origin cannot be the name of a key: it holds a space, '+' or a control")
    signature = await _sign(signer, text)
    return note.format_note(text, [note.signature_line(origin, key_id, signature)])


async def self_test(signer: Signer, expected: PublicKey) -> None:
    """Sign and verify once, as a pairwise test of a key just opened.

    Raises KMSIntegrityError if it is another key than `expected`, or signs what does not verify.
    """
    if thumbprint_of(signer.public_key) != thumbprint_of(expected):
        raise KMSIntegrityError(
            f"the key at {signer.uri} is not the registered one: thumbprints differ"
        )
    with pairwise_test(signer.uri):
        # Random, so that a signer that repeats an old answer is found out.
        await _sign(signer, _SELF_TEST + secrets.token_hex(32).encode("ascii"))


async def _sign(signer: Signer, message: bytes) -> bytes:
    policy.check_operational()
    signature = await signer.sign(message)
    try:
        verify_signature(signer.public_key, signature, message)
    except InvalidSignatureError:
        raise KMSIntegrityError(
            f"the key at {signer.uri} gave a signature that does not verify"
        ) from None
    return signature
