"""One function for each decoder: any bytes in, and only errors of ours may come out.

A target also holds what belongs to its decoder: what was read is written back to the same bytes
where the format is canonical, and read again as the same value where it is not. A broken promise is
an AssertionError, which a fuzzer takes for a crash like any other exception. Requests of every RPC
are in `rpcs`, what comes over HTTP in `webs`, archives that are restored in `backups`, what
commands fetch in `fetched`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from anchor_svc import paging as anchor_paging
from keys_svc import paging as keys_paging
from ledger_svc import paging as ledger_paging
from provledger import (
    _jcs_slow,
    checkpoint,
    cose_receipt,
    dsse,
    entry,
    head,
    jcs,
    key_events,
    note,
    outside,
    patch,
    pointer,
    policy,
    statement,
    tiles,
    timestamp,
    tlog_proof,
    witness_batch,
)
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.client import convert as client_convert
from provledger.disclosure import parse_disclosure
from provledger.errors import InvalidJSONError, PatchError, ProvledgerError
from provledger.export import parse_footer, parse_header, verify_export
from provledger.keyset import KeySet
from provledger.receipt import Receipt, parse_canonical_receipt, parse_receipt
from provledger.rpc.key_events import event_from_pb
from provledger.signing_token import parse_token
from provledger.split_view import parse_split_view
from provledger.verify import Verifier
from provledger_cli.transfer.lines import draft_from_line
from tests.fuzz import answers, backups, fetched, rpcs, trusted, webs
from tests.fuzz.registering import DECODERS, MAX_INPUT_BYTES, TARGETS, target
from witness_svc import checks
from witness_svc import convert as witness_convert

__all__ = ["DECODERS", "MAX_INPUT_BYTES", "TARGETS", "backups", "fetched", "rpcs", "webs"]


class _Refused:
    """Stands for a value where there is none."""


# --- the library ---------------------------------------------------------------------------------


@target
def json(data: bytes) -> None:
    try:
        slow = _jcs_slow.parse(data, jcs.MAX_DEPTH, jcs.MAX_FIELDS)
    except InvalidJSONError:
        slow = _Refused
    try:
        value = jcs.parse(data)
    except InvalidJSONError:
        assert slow is _Refused, "the fast path refuses what the slow one takes"
        raise
    assert slow is not _Refused, "the fast path takes what the slow one refuses"
    text = jcs.encode(value)
    assert text == _jcs_slow.encode(slow, jcs.MAX_DEPTH)
    assert jcs.encode_parsed(value) == text
    assert jcs.canonicalize(data) == (value, text)
    assert jcs.parse(text) == value
    assert jcs.encode(jcs.parse(text)) == text


@target
def signed_note(data: bytes) -> None:
    parsed = note.parse(data)
    assert data.startswith(parsed.text)
    note.open(data, [trusted.VKEY])


@target
def vkey(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    note.open(trusted.CHAIN.checkpoint(), [text])


@target
def checkpoint_body(data: bytes) -> None:
    found = checkpoint.parse(data)
    if not found.extensions:
        assert checkpoint.format(found.origin, found.size, found.root) == data


@target
def signed_checkpoint(data: bytes) -> None:
    checkpoint.open_checkpoint(data, [trusted.VKEY])


@target
def receipt(data: bytes) -> None:
    found = parse_receipt(data)
    if isinstance(found, Receipt):
        assert parse_receipt(found.encode()) == found
    Verifier(trusted.KEYS).verify(found)


@target
def receipt_line(data: bytes) -> None:
    """The reader of exports, which is fast, and the strict one must agree."""
    try:
        strict: object = parse_receipt(data)
    except ProvledgerError:
        strict = _Refused
    try:
        found = parse_canonical_receipt(data)
    except ProvledgerError:
        assert not isinstance(strict, Receipt) or strict.encode() != data
        raise
    assert found.encode() == data
    assert found == strict


@target
def export(data: bytes) -> None:
    verify_export(data.splitlines(keepends=True), trusted.KEYS)


@target
def export_header(data: bytes) -> None:
    assert parse_header(data).encode() + b"\n" == data


@target
def export_footer(data: bytes) -> None:
    assert parse_footer(data).encode() + b"\n" == data


@target
def tile(data: bytes) -> None:
    hashes = tiles.parse_tile(data, max(1, min(256, len(data) // 32)))
    assert b"".join(hashes) == data


@target
def bundle(data: bytes) -> None:
    assert tiles.encode_bundle(tiles.decode_bundle(data)) == data


@target
def cose(data: bytes) -> None:
    found = cose_receipt.parse_cose_receipt(data)
    again = cose_receipt.encode_cose_receipt(
        found.protected, found.signature, found.tree_size, found.log_index, found.hashes
    )
    assert cose_receipt.parse_cose_receipt(again) == found
    cose_receipt.verify_cose_receipt(data, trusted.COSE_ENTRY, trusted.COSE_KEYS)


@target
def json_patch(data: bytes) -> None:
    """A document and operations, as one JSON array of two."""
    value = jcs.parse(data)
    if not isinstance(value, list) or len(value) != 2:
        raise PatchError("not a document and a patch")
    before = jcs.encode(value)
    jcs.encode(patch.apply(value[0], value[1]))
    assert jcs.encode(value) == before


@target
def json_pointer(data: bytes) -> None:
    pointer.parse_pointer(data.decode("utf-8", "surrogateescape"))


@target
def envelope(data: bytes) -> None:
    dsse.decode(data)


@target
def signed_head(data: bytes) -> None:
    Verifier(trusted.KEYS).open_head(data)


@target
def head_body(data: bytes) -> None:
    head.parse_head(data)


@target
def proof_bundle(data: bytes) -> None:
    assert tlog_proof.format_tlog_proof(tlog_proof.parse_tlog_proof(data)) == data


@target
def trust_policy(data: bytes) -> None:
    found = policy.parse_policy(data)
    found.met_by(())


@target
def timestamp_response(data: bytes) -> None:
    timestamp.verify_token(data, trusted.MESSAGE, trusted.AUTHORITY, None)


@target
def timestamp_evidence(data: bytes) -> None:
    timestamp.check_evidence(data, trusted.CHAIN.checkpoint(), trusted.ORIGIN, [trusted.AUTHORITY])


@target
def timestamp_authority(data: bytes) -> None:
    """The certificate that a verifier brings."""
    authority = timestamp.Authority.from_pem(data, trusted.TSA_CHAIN_PEM)
    timestamp.verify_token(trusted.STAMP, trusted.MESSAGE, authority, None)


@target
def object_lock(data: bytes) -> None:
    outside.parse_object_lock(data)


@target
def jwks(data: bytes) -> None:
    keys = KeySet.parse(data)
    assert KeySet.parse(keys.encode()).encode() == keys.encode()


@target
def statement_body(data: bytes) -> None:
    assert statement.parse_statement(data).encode() == data


@target
def witness_body(data: bytes) -> None:
    witness_batch.parse_body(data)


@target
def log_entry(data: bytes) -> None:
    assert entry.parse_entry(data).encode() == data


@target
def key_event(data: bytes) -> None:
    key_events.parse_signed(data)


@target
def signing_token(data: bytes) -> None:
    assert parse_token(data).encode() == data


@target
def split_view(data: bytes) -> None:
    found = parse_split_view(data)
    assert parse_split_view(found.encode()) == found


@target
def one_disclosure(data: bytes) -> None:
    parse_disclosure(data.decode("utf-8", "surrogateescape"))


# --- messages ------------------------------------------------------------------------------------


def _parsed(kind: type[Message], data: bytes) -> Any:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


def message(kind: type[Message], read: Callable[[Any], object]) -> None:
    """Register `read`, which takes a message, under the message's name."""

    def run(data: bytes) -> None:
        found = _parsed(kind, data)
        if found is not None:
            read(found)

    run.__name__ = f"pb_{kind.DESCRIPTOR.name}"
    target(run)


message(common_pb2.Draft, lambda m: checks.check(witness_convert.draft_from_pb(m)))
message(common_pb2.Receipt, client_convert.receipt_from_pb)
message(common_pb2.AppendResult, answers.read_result)
message(keys_pb2.KeyEvent, event_from_pb)
message(witness_pb2.WitnessBatchResponse, answers.read_witnessed)


# --- other input of callers ----------------------------------------------------------------------


@target
def import_line(data: bytes) -> None:
    draft = draft_from_line(data, "default")
    checks.check(witness_convert.draft_from_pb(draft))


@target
def page_token(data: bytes) -> None:
    """Tokens are text of a message, which is UTF-8."""
    text = data.decode("utf-8", "replace")
    for read in (
        lambda: ledger_paging.read_page_token(text, {"a": "b"}, frozenset({"seq"})),
        lambda: anchor_paging.read_page_token(text, "query"),
        lambda: keys_paging.read_page_token(text, "query"),
    ):
        try:
            read()
        except ProvledgerError:
            continue
