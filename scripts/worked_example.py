"""Makes the worked example of docs/formats: one small ledger, from its secrets to its export.

    python scripts/worked_example.py           write the blocks of the pages and the example files
    python scripts/worked_example.py --check   fail if they are not what the library makes now

Everything random is a repeated byte here and every time is fixed, so that the example comes out the
same for everybody. NEVER use these keys: they are public. `tests/unit/test_docs_formats.py`
computes the same values again without the library.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import worked_cose, worked_evidence, worked_keys
from scripts.doc_blocks import REPO, apply, fence, fill, names_in
from scripts.worked_base import (
    KEYS,
    LEDGER,
    LEDGER_UID,
    ORIGIN,
    SUITE,
    TOKEN_KEY,
    Batch,
    Link,
    chain,
    field_lines,
    file_evidence,
    key_set,
    log_leaf,
    make_head,
    make_links,
    make_token,
    mutation_payload,
    prove,
    sign_batch,
    sign_checkpoint,
    stream,
    time_ns,
)

from provledger import disclosure, dsse, merkle, note
from provledger.export import ConsistencyProof, ExportHeader, ExportWriter
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.jwk import thumbprint_of
from provledger.receipt import Receipt
from provledger.witness_batch import (
    PAYLOAD_TYPE,
    batch_root,
    signature_digest,
)

PAGES = REPO / "docs" / "formats"
FILES = PAGES / "example"


def example() -> tuple[dict[str, str], dict[str, bytes]]:
    """The blocks of the pages by name, and the example files by name."""
    links = make_links()
    batches = [sign_batch(links[0]), sign_batch(*links[1:])]
    linked = chain(batches)
    leaves = [log_leaf(), *(entry for _, entry in linked)]
    receipts = prove(linked, leaves)
    signed = sign_checkpoint(leaves)
    head = make_head(receipts[-1], leaves).encode()
    head_sig = KEYS["head-1"].sign(dsse.pae(HEAD_TYPE, head))
    envelope = dsse.encode(dsse.Envelope(HEAD_TYPE, head, (dsse.Signature("head-1", head_sig),)))
    export = make_export(receipts, leaves, envelope)
    lines = export.decode().split("\n")
    values = {
        **_key_values(),
        **_commitment_values(links),
        **_witness_values(links, batches[1]),
        **_token_values(links),
        "entry": linked[1][1].decode(),
        "receipt-hash": receipts[1].receipt_hash.hex(),
        "genesis-entry": linked[0][1].decode(),
        "genesis-receipt-hash": receipts[0].receipt_hash.hex(),
        "genesis-payload": links[0].payload.decode(),
        **_log_values(leaves, signed),
        "head-body": head.decode(),
        "head-sig": head_sig.hex(),
        "head-envelope": envelope.decode(),
        "evidence": file_evidence(signed).decode(),
        "export-header": lines[0],
        "export-footer": lines[-2],
        "jwks": key_set().encode().decode(),
    }
    blocks = {name: fence(text) for name, text in values.items()}
    indented = json.dumps(json.loads(receipts[1].encode()), indent=2, ensure_ascii=False)
    blocks["receipt"] = fence(indented, "json")
    files = {
        "export.ndjson": export,
        "jwks.json": key_set().encode() + b"\n",
        "receipt.json": receipts[1].encode() + b"\n",
        "head.json": envelope + b"\n",
        "checkpoint.txt": signed,
    }
    more_blocks, more_files = worked_keys.example(linked)
    others = {**worked_cose.values(leaves), **worked_evidence.values(leaves)}
    fenced = {name: fence(text) for name, text in others.items()}
    return {**blocks, **more_blocks, **fenced}, {**files, **more_files}


def _token_values(links: list[Link]) -> dict[str, str]:
    token = make_token()
    batch = sign_batch(*links[1:], token=token)
    return {
        "token-cert": token.certificate.encode().decode(),
        "token-sig": token.sig.hex(),
        "token-body": batch.body.decode(),
        "token-batch-sig": batch.sig.hex(),
    }


def _key_values() -> dict[str, str]:
    values = {}
    for kid, key in {**KEYS, "token-1": TOKEN_KEY}.items():
        raw = key.public_key().public_bytes_raw()
        values[f"{kid.removesuffix('-1')}-key"] = (
            f"seed        {key.private_bytes_raw().hex()}\n"
            f"public key  {raw.hex()}\n"
            f"thumbprint  {thumbprint_of(key.public_key()).hex()}"
        )
    return values


def _commitment_values(links: list[Link]) -> dict[str, str]:
    mutation, document = links[1], links[2]
    digests = disclosure.digest_list(mutation_payload(), mutation.secret, mutation=True)
    return {
        "payload": mutation.payload.decode(),
        "secret": mutation.secret.hex(),
        "salts": stream(mutation).hex(),
        "fields": field_lines(mutation),
        "decoy": stream(mutation)[-32:].hex(),
        "digests": "\n".join(digest.hex() for digest in digests),
        "payload-hash": mutation.commitment.root.hex(),
        "blob-payload": document.payload.hex(),
        "blob-salt": document.secret.hex(),
        "blob-payload-hash": document.commitment.root.hex(),
    }


def _witness_values(links: list[Link], batch: Batch) -> dict[str, str]:
    return {
        "statement": links[1].statement.encode().decode(),
        "statement-leaf-hash": links[1].leaf_hash.hex(),
        "other-statement-leaf-hash": links[2].leaf_hash.hex(),
        "batch-root": batch_root(SUITE, batch.leaf_hashes).hex(),
        "batch-body": batch.body.decode(),
        "batch-pae": dsse.pae(PAYLOAD_TYPE, batch.body).decode(),
        "batch-sig": batch.sig.hex(),
        "signature-digest": signature_digest(SUITE, batch.body, batch.sig).hex(),
    }


def _log_values(leaves: list[bytes], signed: bytes) -> dict[str, str]:
    hashes = merkle.leaf_hashes(leaves)
    raw = KEYS["checkpoint-1"].public_key().public_bytes_raw()
    return {
        "log-leaf": leaves[0].decode(),
        "leaf-hashes": "\n".join(f"{index}  {leaf.hex()}" for index, leaf in enumerate(hashes)),
        "log-root": merkle.root(leaves).hex(),
        "inclusion": "\n".join(step.hex() for step in merkle.inclusion_proof(hashes, 2)),
        "consistency": "\n".join(step.hex() for step in merkle.consistency_proof(hashes, 2)),
        "checkpoint": signed.decode().rstrip("\n"),
        "vkey": note.format_vkey(ORIGIN, note.ED25519, raw),
    }


def make_export(receipts: list[Receipt], leaves: list[bytes], head: bytes) -> bytes:
    """The whole ledger in one file."""
    file = io.BytesIO()
    header = ExportHeader(LEDGER, LEDGER_UID, SUITE, ORIGIN, len(leaves), time_ns(5))
    writer = ExportWriter(file, header)
    for receipt in receipts:
        writer.write(receipt)
    hashes = merkle.leaf_hashes(leaves)
    earlier = ConsistencyProof(
        sign_checkpoint(leaves[:2]), tuple(merkle.consistency_proof(hashes, 2))
    )
    writer.finish(head=head, checkpoint=sign_checkpoint(leaves), consistency=[earlier])
    return file.getvalue()


def outputs() -> dict[Path, bytes]:
    """Every page and file with what it should hold; raises SystemExit for a block unknown to us."""
    blocks, files = example()
    made = {FILES / name: data for name, data in files.items()}
    used: set[str] = set()
    # The page of errors is made by reference_docs.py.
    for page in sorted(set(PAGES.glob("*.md")) - {PAGES / "errors.md"}):
        text = page.read_text("utf-8")
        used.update(names_in(text))
        made[page] = fill(text, blocks).encode()
    if used ^ blocks.keys():
        sys.exit(f"blocks in the pages and in the example differ: {sorted(used ^ blocks.keys())}")
    return made


def main() -> None:
    """Write, or check."""
    apply(outputs(), check="--check" in sys.argv[1:])


if __name__ == "__main__":
    main()
