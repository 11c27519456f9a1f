"""The key ledger of the worked example, and the example's export with it inside.

Used by `scripts/worked_example.py`; the same rules hold: fixed times, bytes that repeat, keys that
are public. The key ledger begins after the example's own three receipts, in the same log.
"""

from __future__ import annotations

import io
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripts import worked_base as base
from scripts.doc_blocks import fence

from provledger import disclosure, dsse, jcs, names
from provledger.export import ExportHeader, ExportWriter
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head
from provledger.jwk import jwk_from_public_key, thumbprint_of
from provledger.key_events import (
    LEDGER_NAME,
    Endorsement,
    EventType,
    FirstKey,
    KeyEvent,
    SignedEvent,
    digest_pae,
    request_id,
    whole_pae,
)
from provledger.merkle import root
from provledger.receipt import Receipt

KEYS_UID = bytes.fromhex("ffeeddccbbaa99887766554433221100")
RECOVERY = Ed25519PrivateKey.from_private_bytes(b"\x04" * 32)


def genesis_event() -> SignedEvent:
    """The first key event: it names the example's keys and a recovery key, and all endorse it."""
    event = KeyEvent(
        event=EventType.GENESIS,
        at_ns=base.START_NS,
        kid="recovery-1",
        thumbprint=thumbprint_of(RECOVERY.public_key()),
        jwk=jwk_from_public_key(RECOVERY.public_key()),
        first_keys=tuple(
            FirstKey(
                kid,
                base.PURPOSES[kid].value,
                f"local:{kid}.pem",
                jwk_from_public_key(key.public_key()),
                thumbprint_of(key.public_key()),
                base.START_NS,
            )
            for kid, key in base.KEYS.items()
        ),
    )
    message = whole_pae(event.encode())
    signers = {**base.KEYS, "recovery-1": RECOVERY}
    return SignedEvent(
        event,
        tuple(
            Endorsement(kid, thumbprint_of(key.public_key()), key.sign(message))
            for kid, key in signers.items()
        ),
    )


def _link(seq: int, receipt_type: str, content: Any, request: str) -> base.Link:
    return base.make_link(
        seq,
        ledger=LEDGER_NAME,
        ledger_uid=KEYS_UID,
        receipt_id=names.receipt_id_text(names.uuid7(base.time_ns(seq), bytes([0xF0 + seq]) * 10)),
        salt=bytes([0xB0 + seq]) * 16,
        request_id=request,
        receipt_type=receipt_type,
        resource_type="Key",
        resource_id="recovery-1" if seq else "keys",
        actor_id="keys_svc",
        actor_type="service",
        media_type=base.JSON_TYPE,
        profile=disclosure.FIELDS_PROFILE,
        content=content,
        checks=(),
    )


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _export(
    header: ExportHeader, key_ledger: list[bytes], receipts: list[Receipt], leaves: list[bytes]
) -> bytes:
    """An export whose last receipt is proven against all leaves."""
    last = receipts[-1]
    body = Head(
        ledger_uid=header.ledger_uid,
        seq=last.seq,
        receipt_hash=last.receipt_hash,
        log_index=last.proofs[0].log_index,
        origin=base.ORIGIN,
        size=len(leaves),
        root=root(leaves),
        kid="head-1",
        epoch=1,
        signed_at_ns=base.time_ns(6),
    ).encode()
    sig = base.KEYS["head-1"].sign(dsse.pae(HEAD_TYPE, body))
    file = io.BytesIO()
    writer = ExportWriter(file, header)
    writer.write_key_ledger(key_ledger)
    for receipt in receipts:
        writer.write(receipt)
    writer.finish(
        head=dsse.encode(dsse.Envelope(HEAD_TYPE, body, (dsse.Signature("head-1", sig),))),
        checkpoint=base.sign_checkpoint(leaves),
    )
    return file.getvalue()


def example(linked: list[tuple[Receipt, bytes]]) -> tuple[dict[str, str], dict[str, bytes]]:
    """The blocks and files that show the key ledger; `linked` is the example's own ledger."""
    event = genesis_event()
    created = _link(0, "ledger.created", base.genesis_payload(), "keys-0")
    content, request = jcs.parse(event.encode()), request_id(event.event.digest())
    genesis = _link(1, EventType.GENESIS.value, content, request)
    batches = [base.sign_batch(created), base.sign_batch(genesis)]
    keys = base.chain(batches, LEDGER_NAME, KEYS_UID)
    leaves = [base.log_leaf(), *(entry for _, entry in [*linked, *keys])]
    at_ns = base.time_ns(7)
    inner = ExportHeader(LEDGER_NAME, KEYS_UID, base.SUITE, base.ORIGIN, len(leaves), at_ns)
    outer = ExportHeader(base.LEDGER, base.LEDGER_UID, base.SUITE, base.ORIGIN, len(leaves), at_ns)
    proven = base.prove([*linked, *keys], leaves)
    key_ledger = _export(inner, [], proven[len(linked) :], leaves)
    export = _export(outer, _lines(key_ledger), proven[: len(linked)], leaves)
    pin = thumbprint_of(RECOVERY.public_key()).hex()
    blocks = {
        "export-key-ledger": fence(_lines(export)[1].decode().rstrip("\n")),
        "key-genesis": fence(event.event.encode().decode()),
        "key-endorsement-sha256": fence(
            f"digest     {event.event.digest().hex()}\n"
            f"signed     {digest_pae(event.event.encode()).hex()}\n"
            f"signature  {RECOVERY.sign(digest_pae(event.event.encode())).hex()}"
        ),
        "recovery-key": fence(
            f"seed        {RECOVERY.private_bytes_raw().hex()}\n"
            f"public key  {RECOVERY.public_key().public_bytes_raw().hex()}\n"
            f"thumbprint  {pin}"
        ),
    }
    return blocks, {"pinned.ndjson": export, "pin.txt": f"{pin}\n".encode()}
