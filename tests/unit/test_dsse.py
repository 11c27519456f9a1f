from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import dsse
from provledger.errors import EnvelopeError

SIGNATURES = st.builds(dsse.Signature, keyid=st.text(max_size=8), sig=st.binary(max_size=80))
ENVELOPES = st.builds(
    dsse.Envelope,
    payload_type=st.text(max_size=20),
    payload=st.binary(max_size=100),
    signatures=st.lists(SIGNATURES, min_size=1, max_size=3).map(tuple),
)


def document(**changes: Any) -> bytes:
    """A good envelope with members replaced, or left out where None is given."""
    members = {
        "payload": "aGk=",
        "payloadType": "text/plain",
        "signatures": [{"keyid": "k", "sig": "AAAA"}],
        **changes,
    }
    return json.dumps({name: item for name, item in members.items() if item is not None}).encode()


def test_pae_counts_bytes_not_characters() -> None:
    assert dsse.pae("", b"") == b"DSSEv1 0  0 "
    assert dsse.pae("é", b"h i\n") == b"DSSEv1 2 \xc3\xa9 4 h i\n"


@given(st.text(max_size=10), st.binary(max_size=10), st.text(max_size=10), st.binary(max_size=10))
def test_pae_is_injective(type1: str, body1: bytes, type2: str, body2: bytes) -> None:
    same = (type1, body1) == (type2, body2)
    assert (dsse.pae(type1, body1) == dsse.pae(type2, body2)) == same


def test_pae_refuses_a_type_that_is_no_text() -> None:
    with pytest.raises(EnvelopeError):
        dsse.pae("\ud800", b"")


@given(ENVELOPES)
def test_envelopes_survive_the_round_trip(envelope: dsse.Envelope) -> None:
    written = dsse.encode(envelope)
    assert dsse.decode(written) == envelope
    assert dsse.encode(dsse.decode(written)) == written
    assert envelope.pae == dsse.pae(envelope.payload_type, envelope.payload)


def test_decode_ignores_unknown_members_and_a_missing_keyid() -> None:
    envelope = dsse.decode(document(extra={"a": [1]}, signatures=[{"sig": "AA==", "cert": "x"}]))
    assert envelope == dsse.Envelope("text/plain", b"hi", (dsse.Signature("", b"\0"),))


def test_decode_takes_both_base64_alphabets() -> None:
    raw = bytes(range(256))
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        text = encoded.decode()
        envelope = dsse.decode(document(payload=text, signatures=[{"sig": text}]))
        assert envelope.payload == raw
        assert envelope.signatures[0].sig == raw


@pytest.mark.parametrize(
    "text",
    ["A", "AA", "AA=", "AA===", "AB==", "AAB=", "A A=", "AA==\n", "+-AA", "/_AA",
     "====", "é===", "AA\0="],
)  # fmt: skip
def test_decode_refuses_base64_with_a_second_spelling(text: str) -> None:
    for data in (document(payload=text), document(signatures=[{"sig": text}])):
        with pytest.raises(EnvelopeError):
            dsse.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"{}", b"not json", "{}", None,
        document(payload=None), document(payload=1), document(payloadType=None),
        document(payloadType=1), document(signatures=None), document(signatures={}),
        document(signatures=[]), document(signatures=[1]), document(signatures=[{}]),
        document(signatures=[{"sig": 1}]), document(signatures=[{"sig": "AA==", "keyid": 1}]),
        document(signatures=[{"sig": "AA=="}] * 101),
        b'{"payload":"","payload":"AA==","payloadType":"t","signatures":[{"sig":"AA=="}]}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_decode_refuses_malformed_envelopes(data: Any) -> None:
    with pytest.raises(EnvelopeError):
        dsse.decode(data)


def test_encode_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(EnvelopeError):
        dsse.encode(dsse.Envelope("\ud800", b"", (dsse.Signature("", b""),)))
