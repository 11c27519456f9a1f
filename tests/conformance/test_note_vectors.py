"""Signed notes, verifier keys, checkpoints and cosignatures as others publish them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from provledger import checkpoint, note
from provledger.errors import CheckpointError, NoteError
from tests.conformance.vectors import cases, load


@pytest.mark.parametrize(
    "case",
    cases("signed-note/vkeys.json", lambda f: ((c["vkey"][:40], c) for c in f["accept"])),
)
def test_published_vkeys(case: Any) -> None:
    key = note.parse_vkey(case["vkey"])
    assert key.type == int(case["type"][:4], 16)
    assert note.format_vkey(key.name, key.type, key.public_key) == case["vkey"]


@pytest.mark.parametrize(
    "case",
    cases(
        "signed-note/vkeys.json",
        lambda f: ((c["why"][:40], c) for c in f["reject"] + f["nonconformant_upstream"]),
    ),
)
def test_published_bad_vkeys(case: Any) -> None:
    with pytest.raises(NoteError):
        note.parse_vkey(case["vkey"])


@pytest.mark.parametrize(
    "case",
    cases("tlog-checkpoint/parse.json", lambda f: ((c["origin"], c) for c in f["accept"])),
)
def test_published_checkpoints(case: Any) -> None:
    parsed = checkpoint.parse(case["text"].encode())
    assert (parsed.origin, parsed.size) == (case["origin"], case["size"])
    assert list(parsed.extensions) == case.get("extensions", [])
    assert parsed.root.hex() == case.get("root_hex", "00" * 32)
    if not parsed.extensions:
        written = checkpoint.format(parsed.origin, parsed.size, parsed.root)
        assert written == case["text"].encode()


@pytest.mark.parametrize(
    "case",
    cases(
        "tlog-checkpoint/parse.json",
        lambda f: ((c["why"][:40], c) for c in f["reject"] + f["lenient_only"]),
    ),
)
def test_published_bad_checkpoints(case: Any) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.parse(case["text"].encode())


@pytest.mark.parametrize(
    "case",
    cases(
        "tlog-cosignature/cosignatures.json",
        lambda f: ((c["name"], c) for c in f["verifiable"]),
    ),
)
def test_published_cosignatures_verify(case: Any) -> None:
    data = case["note"].encode()
    opened = note.open(data, case["vkeys"])
    assert [item.timestamp_unix_s for item in opened.signatures] == [case["timestamp"]]
    origin = checkpoint.parse(opened.text).origin
    if "origin_sha256_hex" in case:
        assert hashlib.sha256(origin.encode()).hexdigest() == case["origin_sha256_hex"]
    with pytest.raises(NoteError):
        note.open(data.replace(b"\n300\n", b"\n301\n"), case["vkeys"])
    # A cosigner speaks for itself only, not for the log.
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(data, case["vkeys"])


def test_the_seeds_of_the_published_cosigners() -> None:
    """Their keys are derived from published words, so that both ways can be checked."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    load("tlog-cosignature/cosignatures.json")
    for name, words, vkey in (
        ("witness.example.org", b"skylight test witness key", "witness.example.org+b8a2cf20+"),
        ("witness2.example.org", b"skylight test witness2 key", "witness2.example.org+2e55b896+"),
        ("mirror.example.org", b"skylight test mirror key", "mirror.example.org+3fb148ef+"),
    ):
        seed = hashlib.sha256(words).digest()
        public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        assert note.format_vkey(name, note.COSIGNATURE_ED25519, public).startswith(vkey)


@pytest.mark.parametrize(
    "case",
    cases(
        "tlog-cosignature/cosignatures.json",
        lambda f: ((c["source"], c) for c in f["parse_only"] if "note" in c),
    ),
)
def test_published_notes_parse(case: Any) -> None:
    parsed = note.parse(case["note"].encode())
    assert len(parsed.signatures) >= 2
    checkpoint.parse(parsed.text)
    if "signed_message" in case:
        message = note.cosignature_message(parsed.text, case["cosignature_timestamp"])
        assert message == case["signed_message"].encode()
        stamp = parsed.signatures[1].signature[:8]
        assert int.from_bytes(stamp) == case["cosignature_timestamp"]
