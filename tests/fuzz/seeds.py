"""Inputs that decoders take, to begin from: made here, so that they follow the formats.

What fuzzing found beyond them is in `corpus/`: a file for each target, an input a line, base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from provledger import dsse, jcs, key_events, tiles, tlog_proof
from provledger.api.common.v1 import common_pb2
from provledger.errors import InvalidArgumentError
from provledger.key_events import SignedEvent
from provledger.keyset import CoveredCheckpoint
from provledger.receipt import Receipt
from provledger.rpc.errors import status_to_pb
from provledger.rpc.key_events import event_to_pb
from provledger.signing_token import Certificate, Token
from provledger.split_view import SplitView
from tests.fuzz import answers, backups, fetched, key_registries, trusted, webs
from tests.support import key_history
from tests.support.chain import sample_chain
from tests.support.good_requests import SERVICES, World, drafts, good_requests

CORPUS = Path(__file__).parent / "corpus"


def inputs(name: str) -> list[bytes]:
    """All inputs of a target: those made here and those found."""
    return [*SEEDS.get(name, ()), *found(name)]


def found(name: str) -> list[bytes]:
    """What fuzzing found."""
    path = CORPUS / f"{name}.txt"
    if not path.exists():
        return []
    return [base64.b64decode(line) for line in path.read_text("ascii").splitlines()]


def keep(name: str, items: Iterable[bytes]) -> None:
    """Replace what fuzzing found for a target."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted({base64.b64encode(item).decode("ascii") for item in items}, key=_order)
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def _order(line: str) -> tuple[int, str]:
    return len(line), line


def _entries() -> list[bytes]:
    return list(trusted.CHAIN.leaves)


def _receipts() -> list[Receipt]:
    return list(trusted.CHAIN.receipts())


def _policy() -> bytes:
    lines = [
        f"log {trusted.VKEY} https://log.test/one",
        "sink locked s3://bucket/p?mode=COMPLIANCE",
        "sink other file:///x",
        "group first any locked",
        "group two 2 first other",
        "quorum two",
        "within 10m",
        "mode fail-closed",
    ]
    return "\n".join([*lines, ""]).encode()


def _proof() -> bytes:
    proof = _receipts()[2].proofs[0]
    return tlog_proof.format_tlog_proof(
        tlog_proof.TlogProof(proof.log_index, proof.hashes, proof.checkpoint, b"extra")
    )


def _token() -> Token:
    certificate = Certificate(
        kid="witness-1",
        thumbprint=bytes(32),
        epoch=1,
        jwk=jcs.encode(key_history.jwk("token")).decode(),
        not_before_ns=1,
        not_after_ns=2,
        max_uses=5,
    )
    return Token(certificate, bytes(64), 1)


def _key_events() -> list[SignedEvent]:
    key = key_history
    ref = key_events.KeyRef("witness-1", key.thumbprint("witness-1"))
    common: Any = {"kid": "a", "thumbprint": key.thumbprint("a"), "genesis": bytes(32), "at_ns": 5}
    first = key_events.FirstKey(
        "witness-1", "witness", "local:w.pem", key.jwk("witness-1"), ref.thumbprint, 1
    )
    sizes = (key_events.LogSize("log.test/1", 5),)
    kind = key_events.EventType
    return [
        key.endorsed(event, "a", "b")
        for event in (
            key_events.KeyEvent(
                event=kind.GENESIS,
                at_ns=1,
                kid="a",
                thumbprint=key.thumbprint("a"),
                jwk=key.jwk("a"),
                first_keys=(first,),
            ),
            key_events.KeyEvent(
                event=kind.CREATED, purpose="witness", uri="local:a.pem", jwk=key.jwk("a"), **common
            ),
            key_events.KeyEvent(
                event=kind.ROTATED,
                purpose="witness",
                epoch=2,
                not_before_ns=3,
                previous=ref,
                sizes=sizes,
                **common,
            ),
            key_events.KeyEvent(
                event=kind.RETIRED, purpose="head", not_after_ns=9, sizes=sizes, **common
            ),
            key_events.KeyEvent(
                event=kind.REVOKED,
                purpose="witness",
                reason="lost",
                after=(CoveredCheckpoint("log.test/1", 5, bytes(32)),),
                **common,
            ),
        )
    ]


_UID = _receipts()[0].ledger_uid
_LOG = f"logs/{bytes(16).hex()}"
_WORLD = World(
    tenant="tenants/acme",
    ledger="tenants/acme/ledgers/main",
    ledger_uid=_UID,
    receipt=key_registries.RECEIPT_NAME,
    log=_LOG,
    own_log=_LOG,
    submitted_uid=_UID,
    entries=_entries()[1:4],
    kid="witness-1",
    spare_kid=key_registries.SPARE,
    spare_jwk=json.dumps(key_history.jwk(key_registries.SPARE)).encode(),
    recovery_kid=key_registries.RECOVERY,
    recovery_jwk=json.dumps(key_history.jwk(key_registries.RECOVERY)).encode(),
    event=event_to_pb(key_registries.SEALED.signed.event),
    digest=key_registries.SEALED.signed.event.digest(),
    endorsements=key_registries.ENDORSEMENTS,
    payloads=[key_registries.GENESIS.encode()],
    pin=key_registries.PIN,
    policy=_policy().decode(),
)
_HEAD = trusted.CHAIN.head()


def _key_ledgers() -> list[bytes]:
    """An export of the key ledger, and one of a ledger in the same log that carries it."""
    chain = sample_chain((2,))
    covered = CoveredCheckpoint(trusted.ORIGIN, 1, bytes(32))
    # A key that is pending changes nothing.
    keys = key_history.key_chain(
        key_history.replaced("witness-1", "witness-2", "witness", covered)[:1]
    )
    key_history.in_one_log(chain, keys)
    return [b"".join(keys.export()), b"".join(chain.export(key_ledger=keys.export()))]


_LINES = trusted.CHAIN.export()

SEEDS: dict[str, list[bytes]] = {
    "json": [
        b'{"a":[1,-0.5,1e21,"\\u20ac\\ud83d\\ude00",null,true],"b":{}}',
        b"9007199254740991",
        b'"\\u0000"',
        b"[[[[]]]]",
    ],
    "signed_note": [trusted.CHAIN.checkpoint()],
    "vkey": [trusted.VKEY.encode()],
    "checkpoint_body": [trusted.CHAIN.checkpoint().partition(b"\n\n")[0] + b"\n"],
    "signed_checkpoint": [trusted.CHAIN.checkpoint()],
    "cose": trusted.COSE_RECEIPTS,
    "receipt": [each.encode() for each in _receipts()[:3]],
    "receipt_line": [each.encode() for each in _receipts()[:3]],
    "export": [b"".join(_LINES)],
    "export_header": [_LINES[0]],
    "export_footer": [_LINES[-1]],
    "tile": [bytes(range(32)) * 3],
    "bundle": [tiles.encode_bundle(_entries()[:4]), tiles.encode_bundle([b""])],
    "json_patch": [
        b'[{"a":[1,2]},[{"op":"add","path":"/a/-","value":3},{"op":"move","from":"/a","path":"/b"},'
        b'{"op":"copy","from":"/b/0","path":"/c"},{"op":"test","path":"/c","value":1},'
        b'{"op":"remove","path":"/b/1"},{"op":"replace","path":"","value":{}}]]'
    ],
    "json_pointer": [b"/a~1b/~0/0", b""],
    "envelope": [_HEAD],
    "signed_head": [_HEAD],
    "head_body": [dsse.decode(_HEAD).payload],
    "proof_bundle": [_proof()],
    "trust_policy": [_policy()],
    "timestamp_response": [trusted.STAMP],
    "timestamp_evidence": [trusted.STAMP_EVIDENCE],
    "timestamp_authority": [trusted.TSA_PEM],
    "object_lock": [
        b'{"bucket":"b","key":"k","legalHold":false,"mode":"COMPLIANCE","retainUntilUnixS":"1",'
        b'"sha256":"00","size":"5","v":"1","versionId":"x"}'
    ],
    "jwks": [trusted.KEYS.encode()],
    "statement_body": [each.statement for each in _receipts()[:3]],
    "witness_body": [each.signature.body for each in _receipts()[:2]],
    "log_entry": _entries()[1:3],
    "key_event": [each.encode() for each in _key_events()],
    "signing_token": [_token().encode()],
    "split_view": [
        SplitView(
            trusted.CHAIN.checkpoint(3), trusted.CHAIN.checkpoint(5), bytes(32), (bytes(32),) * 2
        ).encode()
    ],
    "one_disclosure": [
        base64.urlsafe_b64encode(b'["AAAAAAAAAAAAAAAAAAAAAA","/a",1]').rstrip(b"="),
        base64.urlsafe_b64encode(b'["AAAAAAAAAAAAAAAAAAAAAA","",[{"b":null}]]').rstrip(b"="),
    ],
    "cosign_request": [
        b"\n".join([b"old %d" % webs.OLD_SIZE, *map(base64.b64encode, webs.PROOF), b""])
        + b"\n" + trusted.CHAIN.checkpoint(),
        b"old 0\n\n" + trusted.CHAIN.checkpoint(),
    ],
    "key_ledger": _key_ledgers(),
    "monitor_state": [
        jcs.encode({
            "v": "1", "origin": trusted.ORIGIN, "signed": trusted.CHAIN.checkpoint().decode(),
            "grownAtUnixS": "1763665200",
        }),
    ],
    "http_answer": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbytes\r\n0\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        fetched.NEXT_CONNECTION.join([
            b"HTTP/1.1 302 Found\r\nLocation: https://tiles.test/0/000?a=b\r\n"
            b"Content-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nbytes",
        ]),
        fetched.NEXT_CONNECTION.join([
            b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 410 Gone\r\n\r\n",
        ]),
    ],
    "gateway_request": [
        b"GET /log/checkpoint\nif-none-match: \"a\", W/\"b\"",
        b"HEAD /log/tile/0/000",
        b"GET /log/tile/1/000.p/17?x=y",
        b"GET /log/tile/entries/x001/x002/000.p/3\naccept-encoding: br, gzip;q=0.5",
        b"GET /\naccept: text/html",
        b"GET /.well-known/jwks.json",
        b"POST /readyz",
    ],
    "backup_archive": backups.ARCHIVES,
    "backup_manifest": backups.MANIFESTS,
    "backup_database": backups.DATABASES,
    "import_line": [
        b'{"action":"UPDATE","resource_type":"T","resource_id":"i","actor_id":"a",'
        b'"previous_state":{"a":1},"new_state":{"a":2},"diff":[{"op":"replace","path":"/a",'
        b'"value":2}],"origin":{"service":"s","trace_id":"","upstream_events":["e"]}}'
    ],
    "page_token": [base64.urlsafe_b64encode(b'{"q":"x","seq":"1","v":"1"}').rstrip(b"=")],
    "pb_Draft": [each.SerializeToString() for each in drafts()],
    "pb_Receipt": [answers.full_receipt(each).SerializeToString() for each in _receipts()[:3]],
    "pb_AppendResult": [
        common_pb2.AppendResult(
            index=1, receipt=answers.full_receipt(_receipts()[2])
        ).SerializeToString(),
        common_pb2.AppendResult(
            error=status_to_pb(InvalidArgumentError("SOME_REASON", "text"))
        ).SerializeToString(),
    ],
    "pb_WitnessBatchResponse": [answers.witnessed_batch()],
    "pb_KeyEvent": [event_to_pb(each.event).SerializeToString() for each in _key_events()],
}  # fmt: skip

for _service, _descriptor in SERVICES.items():
    for _method in _descriptor.methods:
        SEEDS[f"rpc_{_service}_{_method.name}"] = [
            each.SerializeToString() for each in good_requests(_service, _method.name, _WORLD)
        ]
