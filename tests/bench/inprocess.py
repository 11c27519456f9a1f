"""What the library costs without services: creating, verifying, chaining, trees (design §10)."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import orjson

from provledger import disclosure, jcs, merkle, names
from provledger.entry import encode_entry, receipt_hash
from provledger.export import verify_export
from provledger.receipt import Proof
from provledger.statement import Check, Statement
from provledger.verify import Verifier, verify_receipt
from provledger.witness_batch import statement_leaf_hash
from tests.bench.timing import each, empty_caches, summary_ms
from tests.support.chain import START_NS, Chain, key_set, mutation, with_changes


def payload_1k(seed: int) -> bytes:
    """Return 1 KiB of JSON with 15 fields, different for each seed."""
    value: dict[str, Any] = {
        f"field{index:02d}": hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:50]
        for index in range(12)
    }
    value |= {"amount": seed, "ratio": 0.5, "nested": {"ok": True}}
    data = orjson.dumps(value)
    value["field00"] += "x" * (1024 - len(data))
    return orjson.dumps(value)


def create_receipt(data: bytes) -> bytes:
    """Make what a receipt is made of: strict parse, commitment, statement, entry."""
    value = jcs.parse(data)
    payload = jcs.encode(value)
    commitment = disclosure.commit_fields(value, secrets.token_bytes(32))
    statement = Statement(
        ledger="tenants/acme/ledgers/main",
        ledger_uid=bytes(16),
        receipt_id=names.receipt_id_text(names.uuid7(START_NS, secrets.token_bytes(10))),
        request_id="0af76519-16cd-43dd-8448-eb211c80319c",
        receipt_type="incident",
        action="",
        resource_type="Case",
        resource_id="case-1",
        actor_id="bot",
        actor_type="service",
        principal="anonymous",
        origin_service="bench",
        trace_id="",
        upstream_events=("git:1",),
        op_id="",
        op_parent_id="",
        occurred_at="2024-01-02T03:04:05Z",
        witnessed_at_ns=START_NS,
        media_type="application/json",
        profile=commitment.profile,
        payload_hash=commitment.root,
        checks=(Check("json-strict", "1", "passed"),),
        salt=secrets.token_bytes(16),
    ).encode()
    entry = encode_entry(
        "blake3", "00" * 16, 7, START_NS, bytes(32),
        statement_leaf_hash("blake3", statement), commitment.root, "00" * 32,
    )  # fmt: skip
    receipt_hash("blake3", entry)
    return payload


def logged_lines(count: int) -> tuple[Chain, list[bytes]]:
    """Return a chain of `count` receipts and each as a line, proven against one checkpoint."""
    chain = Chain()
    chain.append([mutation(seq) for seq in range(1, count)])
    proofs = merkle.inclusion_proofs(merkle.leaf_hashes(chain.leaves))
    signed = chain.checkpoint()
    lines = [
        with_changes(
            receipt,
            proofs=(Proof(chain.origin, index + 1, tuple(proofs[index + 1]), signed),),
        ).encode()
        for index, (receipt, _) in enumerate(chain.links)
    ]
    return chain, lines


def run(*, full: bool) -> dict[str, Any]:
    """Run all of them."""
    rounds = 5000 if full else 1000
    keys = key_set()
    text = keys.encode()
    _, lines = logged_lines(rounds)
    shared = Verifier(keys)
    hundred = Chain()
    hundred.append([mutation(seq) for seq in range(1, 100)])
    export = hundred.export()
    leaves = [index.to_bytes(8, "big") * 64 for index in range(1000)]
    return {
        "create_1k_15_fields": summary_ms(each(create_receipt, map(payload_1k, range(rounds)))),
        # Each for itself, with nothing kept of other receipts: keys read before, and known to the
        # process; then unknown to it, as after its start; then as the text that must be read.
        "verify_distinct_known_keys": summary_ms(
            each(lambda line: verify_receipt(line, keys), lines[: rounds // 2])
        ),
        "verify_distinct_caches_emptied": summary_ms(
            each(lambda line: verify_receipt(line, keys), lines[: rounds // 2], empty_caches)
        ),
        "verify_distinct_keys_as_text": summary_ms(
            each(lambda line: verify_receipt(line, text), lines[: rounds // 2], empty_caches)
        ),
        "verify_distinct_shared_batch": summary_ms(each(shared.verify, lines)),
        "verify_chain_of_100": summary_ms(
            each(lambda _: verify_export(export, keys), range(rounds // 50))
        ),
        "merkle_root_of_1000": summary_ms(each(lambda _: merkle.root(leaves), range(rounds // 20))),
        "merkle_all_paths_of_1000": summary_ms(
            each(
                lambda _: merkle.inclusion_proofs(merkle.leaf_hashes(leaves)),
                range(rounds // 20),
            )
        ),
    }
