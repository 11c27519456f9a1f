"""What the worked example builds on: fixed times, keys that are public, bytes that repeat."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from provledger import checkpoint, disclosure, dsse, jcs, merkle, names, note
from provledger.entry import encode_entry, receipt_hash
from provledger.hashing import SUITES
from provledger.head import Head
from provledger.jwk import thumbprint_of
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.receipt import Evidence, Opening, Proof, Receipt, WitnessSignature
from provledger.signing_token import Certificate, Token
from provledger.statement import Check, Statement
from provledger.witness_batch import (
    PAYLOAD_TYPE,
    WitnessBatch,
    batch_root,
    signature_digest,
    statement_leaf_hash,
)

START_NS = 1_763_665_200_000_000_000
SECOND_NS = 1_000_000_000
SUITE = "blake3"
LEDGER = "tenants/acme/ledgers/main"
LEDGER_UID = bytes.fromhex("00112233445566778899aabbccddeeff")
LOG_UID = bytes.fromhex("fedcba98765432100123456789abcdef")
ORIGIN = f"provledger.invalid/{LOG_UID.hex()}"
KEYS = {
    "witness-1": Ed25519PrivateKey.from_private_bytes(b"\x01" * 32),
    "checkpoint-1": Ed25519PrivateKey.from_private_bytes(b"\x02" * 32),
    "head-1": Ed25519PrivateKey.from_private_bytes(b"\x03" * 32),
}
TOKEN_KEY = Ed25519PrivateKey.from_private_bytes(b"\x04" * 32)
PURPOSES = {
    "witness-1": KeyPurpose.WITNESS,
    "checkpoint-1": KeyPurpose.CHECKPOINT,
    "head-1": KeyPurpose.HEAD,
}
JSON_TYPE = "application/json"
NEW_STATE = {"name": "7.2.5", "date": "2024-05-16"}
NOTE = b"Signed off by the change board.\n"

H = SUITES[SUITE].H


@dataclass(frozen=True, slots=True)
class Link:
    """One receipt on its way: what was stated, what was stored, where it stands in its batch."""

    seq: int
    statement: Statement
    payload: bytes
    secret: bytes
    commitment: disclosure.Commitment

    @property
    def leaf_hash(self) -> bytes:
        """Leaf hash of the statement in its batch."""
        return statement_leaf_hash(SUITE, self.statement.encode())


@dataclass(frozen=True, slots=True)
class Batch:
    """A signed batch of statements."""

    links: tuple[Link, ...]
    body: bytes
    sig: bytes

    @property
    def leaf_hashes(self) -> list[bytes]:
        """Leaf hashes of its statements."""
        return [link.leaf_hash for link in self.links]


def time_ns(seq: int) -> int:
    """When the entry at a seq was made: one second apart."""
    return START_NS + seq * SECOND_NS


def log_leaf() -> bytes:
    """Leaf 0 of the log, which describes the log."""
    return jcs.encode(
        {
            "log": {
                "v": "1",
                "uid": LOG_UID.hex(),
                "origin": ORIGIN,
                "suite": SUITE,
                "keys": [
                    {
                        "kid": "checkpoint-1",
                        "jkt": thumbprint_of(KEYS["checkpoint-1"].public_key()).hex(),
                    }
                ],
            }
        }
    )


def genesis_payload() -> dict[str, Any]:
    """Payload of seq 0."""
    return {
        "v": "1",
        "suite": SUITE,
        "logOrigin": ORIGIN,
        "logUid": LOG_UID.hex(),
        "logKey": thumbprint_of(KEYS["checkpoint-1"].public_key()).hex(),
        "witnessKey": thumbprint_of(KEYS["witness-1"].public_key()).hex(),
        "predecessor": None,
    }


def mutation_payload() -> dict[str, Any]:
    """Payload of seq 1, as the witness makes it of a CREATE."""
    return {
        "mutationType": "CREATE",
        "entityType": "Version",
        "entityId": "redis/7.2.5",
        "previousState": None,
        "newState": NEW_STATE,
        "diff": [{"op": "replace", "path": "", "value": NEW_STATE}],
    }


def make_link(seq: int, **said: Any) -> Link:
    """State a receipt; `said` is what differs between them."""
    secret_bytes = 16 if said["profile"] == disclosure.BLOB_PROFILE else 32
    secret = bytes([0xC0 + seq]) * secret_bytes
    content = said.pop("content")
    if said["profile"] == disclosure.BLOB_PROFILE:
        payload = content
        commitment = disclosure.commit_blob(said["media_type"], payload, secret)
    else:
        payload = jcs.encode(content)
        is_mutation = said["receipt_type"] == "mutation"
        commitment = disclosure.commit_fields(content, secret, mutation=is_mutation)
    common: dict[str, Any] = {
        "ledger": LEDGER,
        "ledger_uid": LEDGER_UID,
        "receipt_id": names.receipt_id_text(names.uuid7(time_ns(seq), bytes([0xE0 + seq]) * 10)),
        "action": "",
        "principal": "anonymous",
        "origin_service": "",
        "trace_id": "",
        "upstream_events": (),
        "op_id": "",
        "op_parent_id": "",
        "occurred_at": "",
        "witnessed_at_ns": time_ns(seq),
        "payload_hash": commitment.root,
        "salt": bytes([0xA0 + seq]) * 16,
    }
    return Link(seq, Statement(**(common | said)), payload, secret, commitment)


def make_links() -> list[Link]:
    """The three receipts: genesis, a mutation, a document that is no JSON."""
    strict = Check("json-strict", "1", "passed")
    genesis = make_link(
        0,
        request_id="genesis",
        receipt_type="ledger.created",
        resource_type="Ledger",
        resource_id="main",
        actor_id="ledger_svc",
        actor_type="service",
        media_type=JSON_TYPE,
        profile=disclosure.FIELDS_PROFILE,
        content=genesis_payload(),
        checks=(strict,),
    )
    mutation = make_link(
        1,
        request_id="req-1",
        receipt_type="mutation",
        action="CREATE",
        resource_type="Version",
        resource_id="redis/7.2.5",
        actor_id="bot",
        actor_type="service",
        origin_service="importer",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        upstream_events=("git:6f2b4c1",),
        op_id="op-1",
        occurred_at="2024-05-16T09:12:00+00:00",
        media_type=JSON_TYPE,
        profile=disclosure.FIELDS_PROFILE,
        content=mutation_payload(),
        checks=(strict, Check("transition", "1", "passed"), Check("patch", "1", "passed")),
    )
    document = make_link(
        2,
        request_id="req-2",
        receipt_type="evidence.note",
        resource_type="Version",
        resource_id="redis/7.2.5",
        actor_id="board",
        actor_type="",
        media_type="text/plain",
        profile=disclosure.BLOB_PROFILE,
        content=NOTE,
        checks=(),
    )
    return [genesis, mutation, document]


def sign_batch(*links: Link, token: Token | None = None) -> Batch:
    """Sign the statements of some links together; with a token, by the key in memory."""
    key = KEYS["witness-1"]
    hashes = [link.leaf_hash for link in links]
    body = WitnessBatch(
        suite=SUITE,
        root=batch_root(SUITE, hashes),
        size=len(hashes),
        kid="witness-1",
        thumbprint=thumbprint_of(key.public_key()),
        epoch=1,
        signed_at_ns=time_ns(links[0].seq),
        token=token,
    ).encode()
    signing_key = key if token is None else TOKEN_KEY
    return Batch(links, body, signing_key.sign(dsse.pae(PAYLOAD_TYPE, body)))


def make_token() -> Token:
    """A token of the witness key, certified at START_NS for five minutes; its 17th use."""
    certificate = Certificate.of(
        TOKEN_KEY.public_key(),
        kid="witness-1",
        thumbprint=thumbprint_of(KEYS["witness-1"].public_key()),
        epoch=1,
        not_before_ns=START_NS,
        not_after_ns=START_NS + 300 * SECOND_NS,
        max_uses=20_000,
    )
    return Token(certificate, KEYS["witness-1"].sign(certificate.pae), 17)


def chain(
    batches: list[Batch], ledger: str = LEDGER, uid: bytes = LEDGER_UID
) -> list[tuple[Receipt, bytes]]:
    """Give every link its place: the receipts without proofs, and their entry bytes."""
    linked: list[tuple[Receipt, bytes]] = []
    previous: bytes | None = None
    for batch in batches:
        digest_hex = signature_digest(SUITE, batch.body, batch.sig).hex()
        for index, link in enumerate(batch.links):
            stated = link.statement
            t_ns = time_ns(link.seq)
            entry = encode_entry(
                SUITE, uid.hex(), link.seq, t_ns, previous,
                link.leaf_hash, link.commitment.root, digest_hex,
            )  # fmt: skip
            made = link.commitment
            path = merkle.inclusion_proof(batch.leaf_hashes, index, hasher=H)
            receipt = Receipt(
                name=names.receipt_name(ledger, stated.receipt_id),
                receipt_type=stated.receipt_type,
                ledger=ledger,
                ledger_uid=uid,
                suite=SUITE,
                seq=link.seq,
                t_ns=t_ns,
                timestamp_iso=names.timestamp_iso(t_ns),
                previous_hash=previous,
                payload_hash=made.root,
                receipt_hash=receipt_hash(SUITE, entry),
                kid="witness-1",
                statement=stated.encode(),
                payload=link.payload,
                signature=WitnessSignature(batch.body, batch.sig, index, tuple(path)),
                commitment=Opening(made.profile, made.size, made.secret),
            )
            previous = receipt.receipt_hash
            linked.append((receipt, entry))
    return linked


def sign_checkpoint(leaves: list[bytes]) -> bytes:
    """The signed checkpoint of a log with these leaves."""
    text = checkpoint.format(ORIGIN, len(leaves), merkle.root(leaves))
    key = KEYS["checkpoint-1"]
    key_id = note.note_key_id(ORIGIN, note.ED25519, key.public_key().public_bytes_raw())
    return note.format_note(text, [note.signature_line(ORIGIN, key_id, key.sign(text))])


def prove(linked: list[tuple[Receipt, bytes]], leaves: list[bytes]) -> list[Receipt]:
    """The receipts with their proofs against the newest checkpoint."""
    hashes = merkle.leaf_hashes(leaves)
    signed = sign_checkpoint(leaves)
    evidence = Evidence(
        sink="file:///srv/anchors",
        kind="file",
        acknowledged_at_ns=time_ns(4),
        evidence=file_evidence(signed),
    )
    return [
        replace(
            receipt,
            proofs=(
                Proof(
                    ORIGIN,
                    index,
                    tuple(merkle.inclusion_proof(hashes, index)),
                    signed,
                    (evidence,),
                ),
            ),
        )
        for index, (receipt, _) in enumerate(linked, start=1)
    ]


def file_evidence(signed: bytes) -> bytes:
    """What a `file://` sink returns for a checkpoint."""
    size = checkpoint.parse(note.parse(signed).text).size
    return jcs.encode(
        {
            "name": f"{quote(ORIGIN, safe='')}/{size:020}.checkpoint",
            "sha256": hashlib.sha256(signed).hexdigest(),
            "size": str(size),
        }
    )


def make_head(receipt: Receipt, leaves: list[bytes]) -> Head:
    """The head of the ledger as of the newest checkpoint."""
    return Head(
        ledger_uid=LEDGER_UID,
        seq=receipt.seq,
        receipt_hash=receipt.receipt_hash,
        log_index=len(leaves) - 1,
        origin=ORIGIN,
        size=len(leaves),
        root=merkle.root(leaves),
        kid="head-1",
        epoch=1,
        signed_at_ns=time_ns(3),
    )


def key_set() -> KeySet:
    """The public keys."""
    return KeySet(
        VerificationKey.from_public_key(
            key.public_key(), kid=kid, purpose=PURPOSES[kid], not_before_ns=START_NS
        )
        for kid, key in KEYS.items()
    )


def field_lines(link: Link) -> str:
    """Every field of a mutation with its salt, disclosure and digest."""
    lines = []
    shown = disclosure.disclose_all(mutation_payload(), link.secret, mutation=True)
    for place, item in enumerate(shown):
        lines += [
            item.pointer or '""',
            f"  salt        {stream(link)[16 * place : 16 * place + 16].hex()}",
            f"  disclosure  {item.text}",
            f"  digest      {hashlib.sha256(item.text.encode()).hexdigest()}",
        ]
    return "\n".join(lines)


def stream(link: Link) -> bytes:
    """The salts of the mutation's seven fields, then one decoy."""
    return hashlib.shake_256(b"provledger/salts/v1\n" + link.secret).digest(7 * 16 + 32)
