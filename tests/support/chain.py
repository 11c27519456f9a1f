"""A whole ledger, its log and its keys, built in memory with real signatures and fixed randomness.

What a test changes in it, it changes in the real thing: no service is imitated here, only the order
in which the library's pure parts are called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger import checkpoint, disclosure, dsse, jcs, merkle, names, note
from provledger.entry import Entry, receipt_hash
from provledger.export import ConsistencyProof, ExportHeader, ExportWriter
from provledger.hashing import SUITES
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head
from provledger.jwk import jwk_from_public_key, thumbprint_of
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.receipt import Evidence, Opening, Proof, Receipt, WitnessSignature
from provledger.signing_token import PAYLOAD_TYPE as TOKEN_TYPE
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
ORIGIN = "provledger.test/log"


def private_key(label: str) -> Ed25519PrivateKey:
    """Return the key that belongs to a label, the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest())


def key_set(
    *, witness: str = "witness-1", not_after_ns: int | None = None, not_before_ns: int = 0
) -> KeySet:
    """Return the public keys of the ledgers made here."""
    purposes = {
        witness: KeyPurpose.WITNESS,
        "checkpoint-1": KeyPurpose.CHECKPOINT,
        "head-1": KeyPurpose.HEAD,
    }
    return KeySet(
        VerificationKey.from_public_key(
            private_key(kid).public_key(),
            kid=kid,
            purpose=purpose,
            not_before_ns=not_before_ns if purpose is KeyPurpose.WITNESS else 0,
            not_after_ns=not_after_ns if purpose is KeyPurpose.WITNESS else None,
        )
        for kid, purpose in purposes.items()
    )


def make_token(
    *, kid: str = "witness-1", key: str = "token", use: int = 1, signer: str = "", **changes: Any
) -> Token:
    """Return a token by which `kid` certifies the key with the label `key`; `changes` of it."""
    values: dict[str, Any] = {
        "kid": kid,
        "thumbprint": thumbprint_of(private_key(kid).public_key()),
        "epoch": 1,
        "not_before_ns": START_NS - 1_000_000_000,
        "not_after_ns": START_NS + 200_000_000_000,
        "max_uses": 100,
        "jwk": jcs.encode(jwk_from_public_key(private_key(key).public_key())).decode(),
    }
    certificate = Certificate(**(values | changes))
    sig = private_key(signer or kid).sign(dsse.pae(TOKEN_TYPE, certificate.encode()))
    return Token(certificate, sig, use)


@dataclass
class Chain:
    """One ledger whose every flush was logged; `receipts()` proves all against the newest size."""

    tenant: str = "acme"
    ledger: str = "main"
    suite: str = "blake3"
    origin: str = ORIGIN
    seed: str = "chain"
    links: list[tuple[Receipt, bytes]] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    # Members of the statements to come that say something else than they should.
    misstated: dict[str, Any] = field(default_factory=dict)
    # What the first receipt says, where it should say something else.
    genesis: Any = None

    def __post_init__(self) -> None:
        self.name = names.ledger_name(self.tenant, self.ledger)
        self.uid = self._random("uid", 16)
        # Leaf 0 of a log describes the log, so that no receipt is ever alone in a tree.
        self.leaves.append(jcs.encode({"log": {"origin": self.origin, "v": "1"}}))
        said = self.genesis_payload() if self.genesis is None else self.genesis
        self.append([("ledger.created", said)])

    def genesis_payload(self) -> dict[str, Any]:
        """Return what the first receipt says."""
        return {
            "v": "1",
            "suite": self.suite,
            "logOrigin": self.origin,
            "logUid": self.origin.rpartition("/")[2],
            "logKey": thumbprint_of(private_key("checkpoint-1").public_key()).hex(),
            "witnessKey": thumbprint_of(private_key("witness-1").public_key()).hex(),
            "predecessor": None,
        }

    def append(
        self,
        items: Sequence[tuple[str, Any]],
        *,
        kid: str = "witness-1",
        signer: str = "",
        token: Token | None = None,
        key: Any = None,
    ) -> None:
        """Append one flush of (receipt type, payload value or (media type, bytes)).

        `signer` is the label of the key that signs, that of `kid` by default; give it with a token.
        `key` is the private key of `kid`, if it is of another kind.
        """
        made = [
            self._statement(kind, payload, len(self.links) + offset)
            for offset, (kind, payload) in enumerate(items)
        ]
        hashes = [statement_leaf_hash(self.suite, statement) for _, statement, _, _ in made]
        named = key or private_key(kid)
        key = key or private_key(signer or kid)
        batch = WitnessBatch(
            suite=self.suite,
            root=batch_root(self.suite, hashes),
            size=len(hashes),
            kid=kid,
            thumbprint=thumbprint_of(named.public_key()),
            epoch=1,
            signed_at_ns=self.now_ns(len(self.links)),
            token=token,
        ).encode()
        sig = key.sign(dsse.pae(PAYLOAD_TYPE, batch))
        paths = merkle.inclusion_proofs(hashes, hasher=SUITES[self.suite].H)
        for index, (value, statement, payload, commitment) in enumerate(made):
            signature = WitnessSignature(batch, sig, index, tuple(paths[index]))
            self._link(value, statement, hashes[index], payload, commitment, signature)

    def now_ns(self, seq: int) -> int:
        """Return the time of the entry at `seq`."""
        return START_NS + seq * 1_000_000

    def receipts(
        self, tree_size: int | None = None, *, log_key: str = "checkpoint-1"
    ) -> list[Receipt]:
        """Return all receipts, proven against one checkpoint."""
        size = tree_size or len(self.leaves)
        hasher = SUITES[self.suite].tree
        hashes = merkle.leaf_hashes(self.leaves[:size], hasher=hasher)
        paths = merkle.inclusion_proofs(hashes, hasher=hasher)
        places = {entry: index for index, entry in enumerate(self.leaves)}
        signed = self.checkpoint(size, log_key=log_key)
        evidence = Evidence(
            sink="file:///srv/anchors",
            kind="file",
            acknowledged_at_ns=START_NS,
            evidence=jcs.encode(
                {
                    "name": f"{quote(self.origin, safe='')}/{size:020}.checkpoint",
                    "sha256": hashlib.sha256(signed).hexdigest(),
                    "size": str(size),
                }
            ),
        )
        proven = []
        for receipt, entry in self.links:
            index = places[entry]
            if index >= size:
                break
            proof = Proof(
                origin=self.origin,
                log_index=index,
                hashes=tuple(paths[index]),
                checkpoint=signed,
                evidence=(evidence,),
            )
            proven.append(with_changes(receipt, proofs=(proof,)))
        return proven

    def checkpoint(
        self,
        size: int | None = None,
        *,
        leaves: list[bytes] | None = None,
        log_key: str = "checkpoint-1",
    ) -> bytes:
        """Return the signed checkpoint of the log at a size."""
        chosen = (leaves or self.leaves)[: size or len(self.leaves)]
        root = merkle.root(chosen, hasher=SUITES[self.suite].tree)
        text = checkpoint.format(self.origin, len(chosen), root)
        key = private_key(log_key)
        raw = key.public_key().public_bytes_raw()
        key_id = note.note_key_id(self.origin, 1, raw)
        return note.format_note(text, [note.signature_line(self.origin, key_id, key.sign(text))])

    def root_hash(self, size: int | None = None) -> bytes:
        """Return the root of the log at a size, 32 bytes."""
        leaves = self.leaves[: size or len(self.leaves)]
        return merkle.root(leaves, hasher=SUITES[self.suite].tree)

    def consistency(self, old_size: int, *, log_key: str = "checkpoint-1") -> ConsistencyProof:
        """Return the proof that the newest tree extends the one of `old_size`."""
        hasher = SUITES[self.suite].tree
        hashes = merkle.leaf_hashes(self.leaves, hasher=hasher)
        proof = merkle.consistency_proof(hashes, old_size, hasher=hasher)
        return ConsistencyProof(self.checkpoint(old_size, log_key=log_key), tuple(proof))

    def head(self, seq: int | None = None, *, signed_at_ns: int = 0) -> bytes:
        """Return the signed head, as of the newest checkpoint, in its envelope.

        It is signed when its entry was made, unless told otherwise.
        """
        receipt, entry = self.links[-1 if seq is None else seq]
        index = self.leaves.index(entry)
        size = len(self.leaves) if seq is None else index + 1
        body = Head(
            ledger_uid=self.uid,
            seq=receipt.seq,
            receipt_hash=receipt.receipt_hash,
            log_index=index,
            origin=self.origin,
            size=size,
            root=merkle.root(self.leaves[:size], hasher=SUITES[self.suite].tree),
            kid="head-1",
            epoch=1,
            signed_at_ns=signed_at_ns or self.now_ns(receipt.seq),
        ).encode()
        sig = private_key("head-1").sign(dsse.pae(HEAD_TYPE, body))
        return dsse.encode(dsse.Envelope(HEAD_TYPE, body, (dsse.Signature("head-1", sig),)))

    def header(self) -> ExportHeader:
        """Return the header of an export of this ledger."""
        return ExportHeader(
            self.name, self.uid, self.suite, self.origin, len(self.leaves), START_NS
        )

    def export(
        self,
        receipts: Sequence[Receipt] | None = None,
        *,
        head: bytes | None = b"",
        header: ExportHeader | None = None,
        consistency: Sequence[ConsistencyProof] = (),
        signed: bytes | None = b"",
        key_ledger: Sequence[bytes] = (),
    ) -> list[bytes]:
        """Return the lines of an export, with a footer that counts and digests what is there."""
        lines = _Lines()
        writer = ExportWriter(lines, header or self.header())
        writer.write_key_ledger(key_ledger)
        for receipt in self.receipts() if receipts is None else receipts:
            writer.write(receipt)
        writer.finish(
            head=self.head() if head == b"" else head,
            checkpoint=self.checkpoint() if signed == b"" else signed,
            consistency=consistency,
        )
        return list(lines)

    def _statement(self, kind: str, payload: Any, seq: int) -> tuple[Statement, bytes, bytes, Any]:
        receipt_id = names.receipt_id_text(
            names.uuid7(self.now_ns(seq), self._random(f"id{seq}", 10))
        )
        if isinstance(payload, tuple):
            media_type, data = payload
            secret = self._random(f"secret{seq}", 16)
            commitment = disclosure.commit_blob(media_type, data, secret)
        else:
            media_type, data = "application/json", jcs.encode(payload)
            secret = self._random(f"secret{seq}", 32)
            commitment = disclosure.commit_fields(payload, secret, mutation=kind == "mutation")
        about = payload if kind == "mutation" else {}
        value = Statement(
            ledger=self.name,
            ledger_uid=self.uid,
            receipt_id=receipt_id,
            request_id=f"request-{seq}",
            receipt_type=kind,
            action=about.get("mutationType", ""),
            resource_type=about.get("entityType", "Version"),
            resource_id=about.get("entityId", f"redis/{seq}"),
            actor_id="bot",
            actor_type="service",
            principal="anonymous",
            origin_service="importer",
            trace_id="0af7651916cd43dd8448eb211c80319c",
            upstream_events=("git:1", "git:2"),
            op_id=f"op-{seq}",
            op_parent_id="op-0",
            occurred_at="2024-01-02T03:04:05+01:00",
            witnessed_at_ns=self.now_ns(seq),
            media_type=media_type,
            profile=commitment.profile,
            payload_hash=commitment.root,
            checks=(Check("json-strict", "1", "passed"),),
            salt=self._random(f"salt{seq}", 16),
        )
        value = replace(value, **self.misstated)
        return value, value.encode(), data, commitment

    def _link(
        self,
        value: Statement,
        statement: bytes,
        statement_hash: bytes,
        payload: bytes,
        commitment: disclosure.Commitment,
        signature: WitnessSignature,
    ) -> None:
        seq = len(self.links)
        previous = self.links[-1][0].receipt_hash if self.links else None
        entry = Entry(
            ledger_uid=self.uid,
            suite=self.suite,
            seq=seq,
            t_ns=self.now_ns(seq),
            prev=previous,
            statement=statement_hash,
            payload=commitment.root,
            signature=signature_digest(self.suite, signature.body, signature.sig),
        ).encode()
        receipt = Receipt(
            name=names.receipt_name(self.name, value.receipt_id),
            receipt_type=value.receipt_type,
            ledger=self.name,
            ledger_uid=self.uid,
            suite=self.suite,
            seq=seq,
            t_ns=self.now_ns(seq),
            timestamp_iso=names.timestamp_iso(self.now_ns(seq)),
            previous_hash=previous,
            payload_hash=commitment.root,
            receipt_hash=receipt_hash(self.suite, entry),
            kid=orjson.loads(signature.body)["kid"],
            statement=statement,
            payload=payload,
            signature=signature,
            commitment=Opening(commitment.profile, commitment.size, commitment.secret),
        )
        self.links.append((receipt, entry))
        self.statements.append(value)
        self.leaves.append(entry)

    def _random(self, label: str, length: int) -> bytes:
        name = f"{self.seed}/{self.tenant}/{self.ledger}/{label}"
        return hashlib.shake_256(name.encode()).digest(length)


class _Lines(list):
    """The little of a binary file that an export writer needs."""

    def write(self, data: bytes) -> int:
        self.append(data)
        return len(data)


def mutation(seq: int, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Return an update of an entity, as `Chain.append` takes it."""
    previous, new = {"name": f"v{seq}", "date": None}, {"name": f"v{seq}", "date": "2024-01-02"}
    payload = {
        "mutationType": "UPDATE",
        "entityType": "Version",
        "entityId": f"redis/{seq}",
        "previousState": previous,
        "newState": new,
        "diff": [{"op": "replace", "path": "/date", "value": "2024-01-02"}],
    }
    return "mutation", payload | changes


def sample_chain(flushes: Sequence[int] = (3, 1, 4), **options: Any) -> Chain:
    """Return a chain of the given flush sizes, after its genesis."""
    chain = Chain(**options)
    for size in flushes:
        first = len(chain.links)
        chain.append([mutation(first + offset) for offset in range(size)])
    return chain


def with_changes(receipt: Receipt, **changes: Any) -> Receipt:
    """Return a copy of a receipt with some members changed and nothing else."""
    return replace(receipt, **changes)
