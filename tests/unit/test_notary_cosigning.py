"""Which checkpoints a notary cosigns: the rules of c2sp.org/tlog-witness, one by one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from notary_svc.cosigning import (
    MAX_PROOF,
    Cosigned,
    RefusedError,
    authenticate,
    extend,
    own_lines,
    parse_request,
)
from notary_svc.signing import Cosigner
from provledger import checkpoint, note
from provledger.settings import ConfigError
from tests.support.notary import NOTARY, NOW_S, TinyLog, request_body

LOG = TinyLog()
FORK = TinyLog(fork_at=3)
STRANGER = TinyLog(seed="stranger")
TRUSTED = {LOG.origin: [LOG.key]}


@pytest.fixture(scope="module")
def cosigner(tmp_path_factory: pytest.TempPathFactory) -> Cosigner:
    return Cosigner.open(NOTARY, tmp_path_factory.mktemp("keys"))


def _add(cosigner: Cosigner, body: bytes, last: Cosigned | None = None) -> Cosigned:
    submission = authenticate(parse_request(body), TRUSTED)
    return extend(submission, last, lambda text: cosigner.cosign(text, NOW_S))


def _stored(size: int) -> Cosigned:
    return Cosigned(size, LOG.root(size), LOG.checkpoint(size))


def _refused(cosigner: Cosigner, body: bytes, last: Cosigned | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        _add(cosigner, body, last)
    return caught.value


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 1), (0, 7), (1, 2), (4, 7), (6, 13), (7, 7)])
def test_consistent_checkpoint_is_cosigned_by_both_keys(
    cosigner: Cosigner, old: int, new: int
) -> None:
    stored = _add(cosigner, LOG.request(old, new), _stored(old) if old else None)
    assert (stored.size, stored.root) == (new, LOG.root(new))
    opened = note.open(stored.note, [LOG.vkey, *cosigner.vkeys])
    assert [item.key.type for item in opened.signatures] == [0x01, 0x04, 0x06]
    assert {item.timestamp_unix_s for item in opened.signatures[1:]} == {NOW_S}
    answer = own_lines(stored.note, cosigner.names)
    assert answer.count(b"\n") == 2
    assert LOG.origin.encode() not in answer


_GOOD = LOG.request(4, 7)
_HEAD, _, _NOTE = _GOOD.partition(b"\n\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        _HEAD,
        b"old\n\n" + _NOTE,
        b"old 04\n\n" + _NOTE,
        b"old -4\n\n" + _NOTE,
        b"old +4\n\n" + _NOTE,
        b"old 4 \n\n" + _NOTE,
        b"Old 4\n\n" + _NOTE,
        b"size 4\n\n" + _NOTE,
        request_body(4, [bytes(31)], LOG.checkpoint(7)),
        request_body(4, [bytes(33)], LOG.checkpoint(7)),
        request_body(4, [bytes(32)] * (MAX_PROOF + 1), LOG.checkpoint(7)),
        b"old 4\nhello\n\n" + _NOTE,
        b"old 4\n\xff\n\n" + _NOTE,
        b"old 4\n\nnot a note\n",
        b"old 4\n\n" + LOG.sign(b"log.test/one\nseven\n"),
        b"old 4\n\n" + LOG.sign(b"log.test/one\n07\n" + b"A" * 43 + b"=\n"),
        _GOOD[:-1],
        _GOOD + b"more",
    ],
)
def test_what_cannot_be_read_is_400(cosigner: Cosigner, body: bytes) -> None:
    assert _refused(cosigner, body).status == 400


def test_unknown_origin_is_404_whoever_signed(cosigner: Cosigner) -> None:
    other = TinyLog("log.test/two")
    assert _refused(cosigner, other.request(0, 1)).status == 404


def test_stranger_is_403(cosigner: Cosigner) -> None:
    assert _refused(cosigner, STRANGER.request(0, 1)).status == 403


def test_wrong_signature_under_a_trusted_key_is_403(cosigner: Cosigner) -> None:
    text = checkpoint.format(LOG.origin, 7, LOG.root(7))
    forged = note.signature_line(LOG.origin, LOG.key.note_key_id, bytes(64))
    signed = note.format_note(text, [forged])
    assert _refused(cosigner, request_body(0, [], signed)).status == 403


def test_old_beyond_the_checkpoint_is_400_before_409(cosigner: Cosigner) -> None:
    assert _refused(cosigner, LOG.request(9, 7), _stored(4)).status == 400


@pytest.mark.parametrize(("old", "stored"), [(0, 4), (3, 4), (5, 4), (4, 0)])
def test_other_old_size_is_409_with_the_size(cosigner: Cosigner, old: int, stored: int) -> None:
    refused = _refused(cosigner, LOG.request(old, 7), _stored(stored) if stored else None)
    assert (refused.status, refused.body) == (409, f"{stored}\n")
    assert refused.media_type == "text/x.tlog.size"


def test_empty_tree_with_another_root_is_422(cosigner: Cosigner) -> None:
    signed = LOG.sign(b"log.test/one\n0\n" + b"A" * 43 + b"=\n")
    assert _refused(cosigner, request_body(0, [], signed)).status == 422


def test_proof_from_the_empty_tree_is_422(cosigner: Cosigner) -> None:
    body = request_body(0, [bytes(32)], LOG.checkpoint(7))
    assert _refused(cosigner, body).status == 422


def test_same_size_with_another_root_is_422(cosigner: Cosigner) -> None:
    assert _refused(cosigner, FORK.request(7, 7), _stored(7)).status == 422


def test_fork_is_422(cosigner: Cosigner) -> None:
    assert _refused(cosigner, FORK.request(4, 7), _stored(4)).status == 422


def test_wrong_proof_is_422(cosigner: Cosigner) -> None:
    body = request_body(4, [bytes(32)], LOG.checkpoint(7))
    assert _refused(cosigner, body, _stored(4)).status == 422


def test_forged_line_in_our_name_is_not_stored(cosigner: Cosigner) -> None:
    """Neither under an unknown key id, nor one that stands for our own key."""
    names = sorted(cosigner.names)
    lines = [note.signature_line(NOTARY, key_id, bytes(72)) for key_id in (b"abcd", names[0][1])]
    signed = LOG.checkpoint(7) + b"".join(lines)
    stored = _add(cosigner, request_body(0, [], signed))
    assert len(note.parse(stored.note).signatures) == 3
    note.open(stored.note, [LOG.vkey, *cosigner.vkeys])


def test_extension_lines_are_cosigned_with_the_rest(cosigner: Cosigner) -> None:
    stored = _add(cosigner, request_body(0, [], LOG.checkpoint(7, b"more\n")))
    opened = note.open(stored.note, cosigner.vkeys)
    assert opened.text.endswith(b"more\n")


def test_keys_stay_and_are_private(tmp_path: Path) -> None:
    first = Cosigner.open(NOTARY, tmp_path)
    assert Cosigner.open(NOTARY, tmp_path).vkeys == first.vkeys
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600, 0o600]
    (tmp_path / "ed25519.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        Cosigner.open(NOTARY, tmp_path)


def test_known_cosignature_is_what_we_would_make() -> None:
    """Same bytes as a published one: sunlight's witness key is the hash of a sentence."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    seed = hashlib.sha256(b"skylight test mirror key").digest()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    made = Cosigner("mirror.example.org", [key])
    assert made.vkeys == [
        "mirror.example.org+3fb148ef+BAAjjch9GyYz0sJsJx7ALhbdAtz2ov0unbzSl1vMp94O"
    ]
    text = b"rome2026h1.example.org\n300\ngw31yQrqZZCcEOPrzX+bpy3nJ6QgngTKn8G1m0i62uU=\n"
    assert made.cosign(text, 1767139200) == [
        "— mirror.example.org P7FI7wAAAABpVGeAjA1S4pJm6MbcXjX7UUImu4azZtrfcVW2uyr/LXIYlwEJzXC0N"
        "0EiZkbqfLdXt/4gVEEuGmxJjAfXKMCISpsJAg==\n".encode()
    ]
