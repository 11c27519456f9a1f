from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from provledger import checkpoint, note
from provledger.errors import CheckpointError, NoteError
from provledger.hashing import blake3, sha256

ROOT = hashlib.sha256(b"root").digest()
ROOT_B64 = base64.b64encode(ROOT).decode()
ORIGIN = "log.example/1"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


@given(
    st.text(min_size=1, max_size=20).filter(lambda text: min(text) >= " "),
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_checkpoints_survive_the_round_trip(origin: str, size: int, root: bytes) -> None:
    body = checkpoint.format(origin, size, root)
    parsed = checkpoint.parse(body)
    assert parsed == checkpoint.Checkpoint(origin, size, root)
    assert checkpoint.format(parsed.origin, parsed.size, parsed.root) == body


def test_format_draws_three_lines() -> None:
    assert checkpoint.format(ORIGIN, 7, ROOT) == f"{ORIGIN}\n7\n{ROOT_B64}\n".encode()


def test_extension_lines_are_kept_unless_three_lines_are_asked_for() -> None:
    body = checkpoint.format(ORIGIN, 7, ROOT) + b"one\n two\xe2\x80\xa8\n"
    assert checkpoint.parse(body).extensions == ("one", " two\u2028")
    with pytest.raises(CheckpointError):
        checkpoint.parse(body, exact=True)


def test_an_empty_tree_has_the_hash_of_nothing_as_root() -> None:
    for hasher in (sha256, blake3):
        body = checkpoint.format(ORIGIN, 0, hasher(b""))
        assert checkpoint.parse(body, hasher=hasher).size == 0
    for root in (ROOT, blake3(b"")):
        with pytest.raises(CheckpointError):
            checkpoint.parse(checkpoint.format(ORIGIN, 0, root))


def _body(origin: str = ORIGIN, size: str = "7", root: str = ROOT_B64, rest: str = "") -> bytes:
    return f"{origin}\n{size}\n{root}\n{rest}".encode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"\n\n\n", b"a\n", b"a\n7\n", _body()[:-1], _body(origin=""), _body(size=""),
        _body(root=""), _body(rest="\n"), _body(rest="x\n\n"), _body(rest="x"), _body(rest="\ny\n"),
        _body(size="07"), _body(size="00"), _body(size="-7"), _body(size="+7"), _body(size=" 7"),
        _body(size="7 "), _body(size="7_0"), _body(size="٧"), _body(size="0x7"), _body(size="7.0"),
        _body(size=str(2**63)), _body(size="9" * 5000), _body(root=ROOT_B64[:-1]),
        _body(root=ROOT_B64 + "="), _body(root=" " + ROOT_B64), _body(root=ROOT_B64[:-2] + "B="),
        _body(root=base64.b64encode(ROOT[:31]).decode()), _body(root=ROOT.hex()),
        _body(root=base64.b64encode(ROOT + b"\0").decode()), _body(root="-" * 43 + "="),
        _body(origin="a\tb"), _body(rest="\x00\n"), _body(origin="a\r"),
        b"\xff\n7\n" + _body()[-45:],
        _body().replace(b"\n", b"\r\n"), _body().decode(), None, 7,
    ],
)  # fmt: skip
def test_parse_refuses(text: Any) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.parse(text)


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [("", 7, ROOT), ("a\nb", 7, ROOT), ("a\tb", 7, ROOT), ("\ud800", 7, ROOT), (b"a", 7, ROOT),
     ("a", -1, ROOT), ("a", 2**63, ROOT), ("a", True, ROOT), ("a", "7", ROOT), ("a", 7.0, ROOT),
     ("a", 7, ROOT[:31]), ("a", 7, ROOT_B64), ("a", 7, None)],
)  # fmt: skip
def test_format_refuses(origin: Any, size: Any, root: Any) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.format(origin, size, root)


def signed(body: bytes, *names: str) -> bytes:
    lines = [
        note.signature_line(name, note.note_key_id(name, 1, PUBLIC), KEY.sign(body))
        for name in names
    ]
    return note.format_note(body, lines)


def vkey(name: str = ORIGIN) -> str:
    return note.format_vkey(name, note.ED25519, PUBLIC)


def test_open_checkpoint_returns_what_the_log_signed() -> None:
    body = checkpoint.format(ORIGIN, 7, ROOT)
    opened, whole = checkpoint.open_checkpoint(signed(body, ORIGIN, "w"), [vkey()], ORIGIN)
    assert opened == checkpoint.Checkpoint(ORIGIN, 7, ROOT)
    assert [item.name for item in whole.unverified] == ["w"]


PLAIN = signed(checkpoint.format(ORIGIN, 7, ROOT), ORIGIN)
VKEY = note.parse_vkey(note.format_vkey(ORIGIN, note.ED25519, PUBLIC))
OTHER_KEY = note.parse_vkey(
    note.format_vkey(
        ORIGIN,
        note.ED25519,
        ed25519.Ed25519PrivateKey.from_private_bytes(b"\x04" * 32).public_key().public_bytes_raw(),
    )
)


@pytest.mark.parametrize("vkeys", [[VKEY], [OTHER_KEY, VKEY]])
def test_the_plainest_checkpoint_is_read_alike_in_both_ways(vkeys: list[note.VerifierKey]) -> None:
    read = checkpoint.open_plain(PLAIN, vkeys, ORIGIN)
    assert read == checkpoint.Checkpoint(ORIGIN, 7, ROOT)
    assert read == checkpoint.open_checkpoint(PLAIN, vkeys, ORIGIN)[0]


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_what_is_changed_in_a_plain_checkpoint_is_never_read(position: int, byte: int) -> None:
    changed = PLAIN[:position] + bytes((byte,)) + PLAIN[position + 1 :]
    read = checkpoint.open_plain(changed, [VKEY], ORIGIN)
    assert (read is not None) == (changed == PLAIN)


@pytest.mark.parametrize(
    ("data", "vkeys", "origin"),
    [
        (PLAIN, [], ORIGIN),
        (PLAIN, [OTHER_KEY], ORIGIN),
        (PLAIN, [VKEY, VKEY], ORIGIN),
        (PLAIN, [VKEY], "log.example/2"),
        (PLAIN, [], "\ud800"),
        (PLAIN + b"\n", [VKEY], ORIGIN),
        (PLAIN + PLAIN.splitlines(keepends=True)[-1], [VKEY], ORIGIN),
        (signed(checkpoint.format(ORIGIN, 0, sha256(b"")), ORIGIN), [VKEY], ORIGIN),
        (PLAIN.replace(b"\n7\n", b"\n07\n"), [VKEY], ORIGIN),
        (b"", [VKEY], ORIGIN),
    ],
)
def test_other_checkpoints_are_left_to_the_careful_reader(
    data: bytes, vkeys: list[note.VerifierKey], origin: str
) -> None:
    assert checkpoint.open_plain(data, vkeys, origin) is None


def test_open_checkpoint_refuses_other_origins_and_signers() -> None:
    body = checkpoint.format(ORIGIN, 7, ROOT)
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(signed(body, ORIGIN), [vkey()], "other.example")
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(signed(body, "w"), [vkey("w")])
    with pytest.raises(NoteError):
        checkpoint.open_checkpoint(signed(body, "w"), [vkey()])
    extended = body + b"extension\n"
    assert checkpoint.open_checkpoint(signed(extended, ORIGIN), [vkey()])[0].extensions
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(signed(extended, ORIGIN), [vkey()], exact=True)
    with pytest.raises(CheckpointError):
        checkpoint.open_checkpoint(signed(b"no checkpoint\n", ORIGIN), [vkey()])
