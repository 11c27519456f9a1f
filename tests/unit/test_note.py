from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from provledger import note
from provledger.errors import NoteError

DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo

ED = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
ED_PUBLIC = ED.public_key().public_bytes_raw()
P256 = ec.derive_private_key(12345, ec.SECP256R1())
P256_PUBLIC = P256.public_key().public_bytes(DER, SPKI)
ML = mldsa.MLDSA44PrivateKey.from_seed_bytes(b"\x02" * 32)
ML_PUBLIC = ML.public_key().public_bytes_raw()

ORIGIN = "log.example/1"
ROOT = hashlib.sha256(b"root").digest()
TEXT = f"{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\n".encode()
TIME = 1_700_000_000


def sign(kind: int, text: bytes = TEXT, name: str = ORIGIN, time: int = TIME) -> bytes:
    """What follows the key id in a signature line by the test key of that type."""
    if kind == note.ED25519:
        return ED.sign(text)
    if kind == note.ECDSA:
        return P256.sign(text, ec.ECDSA(hashes.SHA256()))
    stamp = struct.pack(">Q", time)
    if kind == note.COSIGNATURE_ED25519:
        return stamp + ED.sign(note.cosignature_message(text, time))
    if kind == note.COSIGNATURE_ML_DSA_44:
        return stamp + ML.sign(note.subtree_message(name, time, text))
    der = P256.sign(note.sth_message(text, time), ec.ECDSA(hashes.SHA256()))
    return stamp + b"\x04\x03" + struct.pack(">H", len(der)) + der


PUBLIC = {
    note.ED25519: ED_PUBLIC,
    note.ECDSA: P256_PUBLIC,
    note.COSIGNATURE_ED25519: ED_PUBLIC,
    note.RFC6962_STH: P256_PUBLIC,
    note.COSIGNATURE_ML_DSA_44: ML_PUBLIC,
}
TYPES = sorted(PUBLIC)


def vkey(kind: int = note.ED25519, name: str = ORIGIN) -> str:
    return note.format_vkey(name, kind, PUBLIC[kind])


def line(kind: int = note.ED25519, name: str = ORIGIN, signature: bytes | None = None) -> bytes:
    key_id = note.note_key_id(name, kind, PUBLIC[kind])
    return note.signature_line(name, key_id, signature or sign(kind, name=name))


# --- verifier keys -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_vkeys_survive_the_round_trip(kind: int) -> None:
    text = vkey(kind)
    key = note.parse_vkey(text)
    assert (key.name, key.type, key.public_key) == (ORIGIN, kind, PUBLIC[kind])
    assert key.note_key_id == note.note_key_id(ORIGIN, kind, PUBLIC[kind])
    assert note.format_vkey(key.name, key.type, key.public_key) == text


def test_key_ids_follow_the_specification() -> None:
    def h(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()[:4]

    assert note.note_key_id("n", 1, ED_PUBLIC) == h(b"n\n\x01" + ED_PUBLIC)
    assert note.note_key_id("n", 2, P256_PUBLIC) == h(P256_PUBLIC)
    assert note.note_key_id("n", 4, ED_PUBLIC) == h(b"n\n\x04" + ED_PUBLIC)
    log_id = hashlib.sha256(P256_PUBLIC).digest()
    assert note.note_key_id("n", 5, P256_PUBLIC) == h(b"n\n\x05" + log_id)
    assert note.note_key_id("é", 6, ML_PUBLIC) == h("é".encode() + b"\n\x06" + ML_PUBLIC)


def _vkey(name: str, kind: int, public: bytes, key_id: bytes | None = None) -> str:
    key_id = note.note_key_id(name, kind, public) if key_id is None else key_id
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes([kind]) + public).decode()}"


GOOD = vkey()
RSA_PUBLIC = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(DER, SPKI)
)
K1_PUBLIC = ec.derive_private_key(5, ec.SECP256K1()).public_key().public_bytes(DER, SPKI)
# The same key with its point compressed: a second spelling, and so a second key id.
COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + (
    P256.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
)
X_PRIVATE = x25519.X25519PrivateKey.from_private_bytes(b"\x02" * 32)
X_PUBLIC = X_PRIVATE.public_key().public_bytes(DER, SPKI)


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "++", "a+b", ORIGIN, None, 1, GOOD.encode(), GOOD + "\n", " " + GOOD,
        GOOD.replace("+", " "), GOOD[:-1], GOOD + "=", GOOD.upper(), GOOD + "A" * 20_000,
        _vkey("", 1, ED_PUBLIC), _vkey("a b", 1, ED_PUBLIC), _vkey("a\u00a0b", 1, ED_PUBLIC),
        _vkey("a\u2028b", 1, ED_PUBLIC), _vkey("a\x00b", 1, ED_PUBLIC), _vkey("a\nb", 1, ED_PUBLIC),
        "\ud800" + GOOD,
        _vkey("a", 1, ED_PUBLIC, b"\0\0\0\0"), _vkey("a", 1, ED_PUBLIC, b"\0"),
        _vkey("a", 1, ED_PUBLIC[:31]), _vkey("a", 1, ED_PUBLIC + b"\0"), _vkey("a", 1, b""),
        _vkey("a", 0, ED_PUBLIC), _vkey("a", 3, ED_PUBLIC), _vkey("a", 7, ED_PUBLIC),
        _vkey("a", 0xFA, ED_PUBLIC), _vkey("a", 0xFF, ED_PUBLIC),
        _vkey("a", 2, P256_PUBLIC[:-1]), _vkey("a", 2, P256_PUBLIC + b"\0"), _vkey("a", 2, b""),
        _vkey("a", 2, RSA_PUBLIC), _vkey("a", 5, RSA_PUBLIC), _vkey("a", 2, K1_PUBLIC),
        _vkey("a", 2, COMPRESSED), _vkey("a", 2, X_PUBLIC), _vkey("a", 2, ED_PUBLIC),
        _vkey("a", 5, b"\x30\x00"),
        _vkey("a", 6, ML_PUBLIC[:-1]), _vkey("a", 6, ED_PUBLIC),
        "a+" + note.note_key_id("a", 1, ED_PUBLIC).hex() + "+",
    ],
)  # fmt: skip
def test_parse_vkey_refuses(text: Any) -> None:
    with pytest.raises(NoteError):
        note.parse_vkey(text)


def test_parse_vkey_refuses_upper_case_and_loose_base64() -> None:
    name, key_id, blob = GOOD.split("+", 2)
    for text in (f"{name}+{key_id.upper()}+{blob}", f"{name}+{key_id}+{blob.rstrip('=')}"):
        if text != GOOD:
            with pytest.raises(NoteError):
                note.parse_vkey(text)
    loose = blob[:-2] + "A="  # what follows the last byte must be zero bits
    assert base64.b64decode(loose) or True
    with pytest.raises(NoteError):
        note.parse_vkey(f"{name}+{key_id}+{loose}")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_wider_curves_sign_as_well(curve: ec.EllipticCurve) -> None:
    private = ec.derive_private_key(99, curve)
    public = private.public_key().public_bytes(DER, SPKI)
    key = note.format_vkey("n", note.ECDSA, public)
    signature = private.sign(TEXT, ec.ECDSA(hashes.SHA256()))
    key_id = note.parse_vkey(key).note_key_id
    made = note.format_note(TEXT, [note.signature_line("n", key_id, signature)])
    assert note.open(made, [key]).text == TEXT


# --- opening -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_open_verifies_every_type_of_signature(kind: int) -> None:
    data = note.format_note(TEXT, [line(kind)])
    opened = note.open(data, [vkey(kind)])
    assert opened.text == TEXT
    assert opened.unverified == ()
    (signature,) = opened.signatures
    assert signature.key == note.parse_vkey(vkey(kind))
    cosigned = kind in (note.COSIGNATURE_ED25519, note.COSIGNATURE_ML_DSA_44)
    assert signature.timestamp_unix_s == (TIME if cosigned else None)
    assert signature.sth_timestamp_unix_ms == (TIME if kind == note.RFC6962_STH else None)
    assert note.open(data, [note.parse_vkey(vkey(kind))]) == opened


@pytest.mark.parametrize("kind", TYPES)
def test_open_refuses_every_changed_byte_of_a_signature(kind: int) -> None:
    signature = sign(kind)
    places = range(len(signature)) if len(signature) < 100 else range(0, len(signature), 97)
    for place in places:
        changed = bytearray(signature)
        changed[place] ^= 1
        for damaged in (bytes(changed), signature[:place], signature + bytes(changed)):
            if not damaged:
                continue
            with pytest.raises(NoteError):
                note.open(note.format_note(TEXT, [line(kind, signature=damaged)]), [vkey(kind)])


@pytest.mark.parametrize("kind", TYPES)
def test_open_refuses_another_text(kind: int) -> None:
    other = TEXT.replace(b"\n7\n", b"\n8\n")
    with pytest.raises(NoteError):
        note.open(note.format_note(other, [line(kind)]), [vkey(kind)])


@pytest.mark.parametrize("kind", TYPES)
def test_a_signature_of_one_type_is_none_of_another(kind: int) -> None:
    for other in TYPES:
        if other != kind:
            data = note.format_note(TEXT, [line(other, signature=sign(kind))])
            with pytest.raises(NoteError):
                note.open(data, [vkey(other)])


@pytest.mark.parametrize("kind", [note.RFC6962_STH, note.COSIGNATURE_ML_DSA_44])
def test_types_that_sign_a_tree_head_need_a_checkpoint(kind: int) -> None:
    with pytest.raises(NoteError):
        note.open(note.format_note(b"no checkpoint\n", [line(kind)]), [vkey(kind)])


def test_an_rfc6962_tree_head_has_no_extension_lines() -> None:
    """They would not be signed."""
    text = TEXT + b"extension\n"
    with pytest.raises(NoteError):
        note.open(note.format_note(text, [line(note.RFC6962_STH)]), [vkey(note.RFC6962_STH)])


def test_a_cosignature_covers_extension_lines() -> None:
    kind = note.COSIGNATURE_ED25519
    text = TEXT + b"extension\n"
    signed = line(kind, signature=sign(kind, text))
    assert note.open(note.format_note(text, [signed]), [vkey(kind)]).text == text
    with pytest.raises(NoteError):
        note.open(note.format_note(TEXT, [signed]), [vkey(kind)])


def test_messages_are_those_of_the_specifications() -> None:
    assert note.cosignature_message(TEXT, 5) == b"cosignature/v1\ntime 5\n" + TEXT
    assert note.subtree_message("w.example", 5, TEXT) == (
        b"subtree/v1\n\x00\x09w.example" + bytes(7) + b"\x05\x0dlog.example/1"
        + bytes(8) + bytes(7) + b"\x07" + ROOT
    )  # fmt: skip
    assert note.sth_message(TEXT, 5) == b"\x00\x01" + bytes(7) + b"\x05" + bytes(7) + b"\x07" + ROOT


def test_timestamps_beyond_63_bits_are_refused() -> None:
    for kind in (note.COSIGNATURE_ED25519, note.COSIGNATURE_ML_DSA_44):
        data = note.format_note(TEXT, [line(kind, signature=sign(kind, time=2**63))])
        with pytest.raises(NoteError):
            note.open(data, [vkey(kind)])


def test_unknown_keys_are_ignored_but_do_not_suffice() -> None:
    stranger = line(name="stranger.example")
    same_name = note.signature_line(ORIGIN, b"\0\0\0\0", ED.sign(TEXT))
    data = note.format_note(TEXT, [stranger, same_name, line()])
    opened = note.open(data, [vkey()])
    assert [item.name for item in opened.unverified] == ["stranger.example", ORIGIN]
    assert len(opened.signatures) == 1
    for keys in ([], [vkey(name="other.example")], [vkey(note.ECDSA)]):
        with pytest.raises(NoteError):
            note.open(data, keys)


def test_a_wrong_signature_by_a_known_key_rejects_the_whole_note() -> None:
    forged = line(note.ECDSA, name="w.example", signature=b"\x30\x06\x02\x01\x01\x02\x01\x01")
    data = note.format_note(TEXT, [line(), forged])
    assert note.open(data, [vkey()]).text == TEXT
    with pytest.raises(NoteError):
        note.open(data, [vkey(), vkey(note.ECDSA, "w.example")])


def test_of_two_lines_by_one_key_only_the_first_counts() -> None:
    forged = line(signature=bytes(64))
    opened = note.open(note.format_note(TEXT, [line(), forged, line()]), [vkey()])
    assert len(opened.signatures) == 1
    assert opened.unverified == ()
    with pytest.raises(NoteError):
        note.open(note.format_note(TEXT, [forged, line()]), [vkey()])


def test_of_equal_unverified_lines_one_is_kept() -> None:
    other = line(name="w.example")
    changed = line(name="w.example", signature=bytes(64))
    opened = note.open(note.format_note(TEXT, [other, LINE, other, changed, other]), [vkey()])
    assert opened.unverified == note.parse(note.format_note(TEXT, [other, changed])).signatures


def test_the_same_key_may_be_given_twice_but_not_two_under_one_id() -> None:
    data = note.format_note(TEXT, [line()])
    assert len(note.open(data, [vkey(), vkey()]).signatures) == 1
    key = note.parse_vkey(vkey())
    twin = note.VerifierKey(key.name, key.note_key_id, key.type, b"\x07" * 32)
    with pytest.raises(NoteError):
        note.open(data, [key, twin])
    with pytest.raises(NoteError):
        note.open(data, vkey())


# --- the shape of a note -------------------------------------------------------------------

LINE = line()


@pytest.mark.parametrize(
    "text",
    [
        b"a\n",
        b"\n",
        b"\n\n",
        b"a\n\nb\n",
        b"a\n\n\n",
        "ü\u2028\x85\n".encode(),
        TEXT + b"\n" + LINE,
    ],
)
def test_texts_may_hold_empty_lines_and_even_notes(text: bytes) -> None:
    signed = note.format_note(text, [line(signature=ED.sign(text)), LINE])
    assert note.parse(signed).text == text
    assert note.open(signed, [vkey()]).text == text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"\n\n", TEXT, TEXT + b"\n", TEXT + LINE, LINE, b"\n" + LINE,
        TEXT + b"\n" + LINE[:-1], TEXT + b"\n" + LINE + b"\n", TEXT + b"\n" + LINE + b"x\n",
        TEXT + b"\n" + LINE[3:], TEXT + b"\n-" + LINE[3:], TEXT + b"\n" + LINE.replace(b" ", b"  "),
        TEXT + b"\n" + LINE.replace(b"\n", b" \n"), TEXT + b"\n" + LINE.replace(b"\n", b"=\n"),
        TEXT + b"\n" + LINE.replace(b"\n", b"\r\n"), TEXT.replace(b"7", b"\t") + b"\n" + LINE,
        TEXT + b"\n" + LINE.replace(b"log", b"l+g"),
        TEXT + b"\n" + LINE.replace(b"log", b"l\xc2\xa0g"),
        TEXT + b"\n" + "\N{EM DASH} n AAAAAA==\n".encode(),
        TEXT + b"\n" + "\N{EM DASH} n \n".encode(),
        TEXT + b"\n" + "\N{EM DASH} n AAAAAAB=\n".encode(),
        TEXT + b"\n" + "\N{EM DASH}  AAAAAAA=\n".encode(),
        TEXT + b"\n" + "\N{EM DASH} n AAAA AAA=\n".encode(), TEXT + b"\xff\n\n" + LINE,
        TEXT + b"\n" + LINE * 101, b"a" * (1 << 20) + b"\n\n" + LINE, TEXT.decode(), None,
    ],
)  # fmt: skip
def test_parse_refuses_malformed_notes(data: Any) -> None:
    with pytest.raises(NoteError):
        note.parse(data)
    with pytest.raises(NoteError):
        note.open(data, [vkey()])


def test_many_signatures_are_read() -> None:
    lines = [line(name=f"n{i}") for i in range(99)]
    assert len(note.open(note.format_note(TEXT, [*lines, LINE]), [vkey()]).unverified) == 99


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"no newline", [LINE]), (b"", [LINE]), (TEXT, []), (TEXT, [LINE + LINE]), (TEXT, [b""]),
     (TEXT, [b"\n" + LINE]), (TEXT, [LINE[:-1]]), (b"\x01\n", [LINE]), (b"\xff\n", [LINE])],
)  # fmt: skip
def test_format_note_refuses_what_would_read_otherwise(text: bytes, lines: list[bytes]) -> None:
    with pytest.raises(NoteError):
        note.format_note(text, lines)


@pytest.mark.parametrize(
    ("name", "key_id", "signature"),
    [("", b"1234", b"s"), ("a b", b"1234", b"s"), ("a+b", b"1234", b"s"), ("a", b"123", b"s"),
     ("a", b"1234", b""), ("a\n", b"1234", b"s"), ("\udc80", b"1234", b"s"), (1, b"1234", b"s")],
)  # fmt: skip
def test_signature_line_refuses(name: Any, key_id: bytes, signature: bytes) -> None:
    with pytest.raises(NoteError):
        note.signature_line(name, key_id, signature)


NAMES = st.text(min_size=1, max_size=8).filter(note.is_key_name)


@given(
    st.text(max_size=20).filter(lambda text: not any(char < " " and char != "\n" for char in text)),
    st.lists(st.tuples(NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=9)),
             min_size=1, max_size=4),
)  # fmt: skip
def test_notes_survive_the_round_trip(text: str, lines: list[tuple[str, bytes, bytes]]) -> None:
    body = text.encode() + b"\n"
    parsed = note.parse(note.format_note(body, [note.signature_line(*item) for item in lines]))
    assert parsed.text == body
    assert [(s.name, s.note_key_id, s.signature) for s in parsed.signatures] == lines


def test_key_names_exclude_exactly_what_go_calls_a_space() -> None:
    spaces = [
        *range(0x21), 0x2B, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
        0x205F, 0x3000, *range(0xD800, 0xE000),
    ]  # fmt: skip
    assert [code for code in range(0x11000) if not note.is_key_name(chr(code))] == spaces
    assert not note.is_key_name("")
