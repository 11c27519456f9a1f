"""Public keys as JWK and JWK Set: RFC 7638, RFC 8037, and what must never be read."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from hypothesis import given
from hypothesis import strategies as st

from provledger import jcs, jwk
from provledger.errors import (
    InvalidSignatureError,
    KeyFormatError,
    NoteError,
    VerificationError,
)
from provledger.keyset import (
    Algorithm,
    KeyPurpose,
    KeySet,
    KeyState,
    VerificationKey,
    jwk_from_public_key,
    public_key_from_jwk,
    thumbprint,
)

# RFC 8037 Appendix A.2: the public key of RFC 8032 §7.1 test 1.
RFC8037_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
# RFC 7517 Appendix A.1, first key.
RFC7517_EC_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "use": "enc",
    "kid": "1",
}

# RFC 7638 §3.1.
RFC7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1"
    "L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4"
    "QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO"
    "pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csF"
    "Cur-kEgU8awapJzKnqDKgw"
)


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def ed_private(number: int) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def ec_private(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number + 1, ec.SECP256R1())


def key(number: int = 1, **changes: Any) -> VerificationKey:
    values: dict[str, Any] = {
        "kid": f"witness-{number}",
        "purpose": KeyPurpose.WITNESS,
        "epoch": number,
        "not_before_ns": 1_735_689_600_000_000_000,
    }
    return VerificationKey.from_public_key(ed_private(number).public_key(), **(values | changes))


def p384_private(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number + 1, ec.SECP384R1())


private_keys = st.one_of(
    st.integers(0, 2**250).map(ed_private),
    st.integers(0, 2**250).map(ec_private),
    st.integers(0, 2**250).map(p384_private),
    st.binary(min_size=32, max_size=32).map(mldsa.MLDSA44PrivateKey.from_seed_bytes),
    st.binary(min_size=32, max_size=32).map(mldsa.MLDSA65PrivateKey.from_seed_bytes),
)


class TestThumbprint:
    def test_rfc8037_ed25519_vector(self) -> None:
        expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        assert b64url(thumbprint(RFC8037_JWK)) == expected

    def test_p256_hashes_the_four_members_of_rfc7638_in_order(self) -> None:
        jwk_ = {k: v for k, v in RFC7517_EC_JWK.items() if k not in ("use", "kid")}
        text = '{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.format(**jwk_)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(text.encode())
        assert thumbprint(jwk_) == digest.finalize()

    def test_rfc7638_rsa_vector(self) -> None:
        """RFC 7638 §3.1 shows an RSA key: we hash its members right, and verify with none."""
        members = {"kty": "RSA", "e": "AQAB", "n": RFC7638_N}
        expected = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        assert b64url(jwk._hash_members(members)) == expected
        with pytest.raises(jwk.UnsupportedKeyError, match="RSA"):
            thumbprint(members)

    def test_rfc9964_ml_dsa_vector(self) -> None:
        """RFC 9964 §4: the example key made of 32 zero bytes, whose kid is its thumbprint."""
        public_key = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key()
        members = jwk_from_public_key(public_key)
        assert (members["kty"], members["alg"]) == ("AKP", "ML-DSA-44")
        assert b64url(thumbprint(members)) == "T4xl70S7MT6Zeq6r9V9fPJGVn76wfnXJ21-gyo0Gu6o"

    def test_optional_members_do_not_change_it(self) -> None:
        more = {**RFC8037_JWK, "kid": "x", "alg": "EdDSA", "use": "sig", "key_ops": ["verify"]}
        assert thumbprint(more) == thumbprint(RFC8037_JWK)

    @given(private_keys)
    def test_is_that_of_the_canonical_required_members(self, private: Any) -> None:
        members = jwk_from_public_key(private.public_key())
        digest = hashes.Hash(hashes.SHA256())
        digest.update(jcs.encode(members))
        assert thumbprint(members) == digest.finalize()


class TestJwk:
    @given(private_keys)
    def test_round_trip_from_key_and_from_jwk(self, private: Any) -> None:
        members = jwk_from_public_key(private.public_key())
        loaded = public_key_from_jwk(members)
        assert loaded == private.public_key()
        assert jwk_from_public_key(loaded) == members

    def test_the_same_jwk_is_loaded_once(self) -> None:
        assert public_key_from_jwk(RFC8037_JWK) is public_key_from_jwk(dict(RFC8037_JWK))

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}, "private member"),
            ({"priv": "AA"}, "private member"),
            ({"x": RFC8037_JWK["x"] + "="}, "unpadded"),
            ({"x": RFC8037_JWK["x"][:-1] + "p"}, "exactly 32 bytes"),  # stray trailing bits
            ({"x": RFC8037_JWK["x"][:-1]}, "exactly 32 bytes"),
            ({"x": ""}, "unpadded"),
            ({"x": 5}, "unpadded"),
            ({"x": b64url(bytes(32))}, "must not be used"),
            ({"x": b64url(b"\xff" * 32)}, "must not be used"),
            ({"alg": "ES256"}, "alg"),
            ({"use": "enc"}, "use"),
            ({"key_ops": ["sign"]}, "key_ops"),
            ({"key_ops": "verify"}, "key_ops"),
            ({"kty": None}, "kty"),
            ({"crv": "Ed448"}, "not supported"),
            ({"kty": ["OKP"]}, "kty"),
        ],
    )
    def test_bad_member_is_refused(self, change: dict[str, Any], why: str) -> None:
        with pytest.raises(KeyFormatError, match=why):
            public_key_from_jwk({**RFC8037_JWK, **change})

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"pub": "AAAA"}, "exactly 1312 bytes"),
            ({"pub": None}, "unpadded base64url"),
            ({"alg": "ML-DSA-65"}, "exactly 1952 bytes"),
            ({"alg": "ML-DSA-87"}, "not supported"),
            ({"alg": None}, "not supported"),
            ({"alg": ["ML-DSA-44"]}, "not supported"),
            ({"priv": "AA"}, "private member"),
            ({"use": "enc"}, "use"),
        ],
    )
    def test_bad_member_of_an_ml_dsa_key_is_refused(self, change: Any, why: str) -> None:
        private = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))
        with pytest.raises(KeyFormatError, match=why):
            public_key_from_jwk({**jwk_from_public_key(private.public_key()), **change})

    @pytest.mark.parametrize("curve", ["P-521", "secp256k1", "P-384 "])
    def test_another_curve_is_not_supported(self, curve: str) -> None:
        with pytest.raises(jwk.UnsupportedKeyError):
            public_key_from_jwk({**RFC7517_EC_JWK, "use": "sig", "crv": curve})

    def test_coordinates_of_the_other_curve_are_refused(self) -> None:
        with pytest.raises(KeyFormatError, match="exactly 48 bytes"):
            public_key_from_jwk({**RFC7517_EC_JWK, "use": "sig", "crv": "P-384"})

    def test_point_off_the_p256_curve_is_refused(self) -> None:
        off = {**RFC7517_EC_JWK, "use": "sig", "y": RFC7517_EC_JWK["x"]}
        with pytest.raises(KeyFormatError, match="not a point"):
            public_key_from_jwk(off)

    def test_every_point_of_small_order_is_refused(self) -> None:
        """Computed here from the curve equation, so that the constants are not trusted."""
        p = 2**255 - 19
        d = -121665 * pow(121666, -1, p) % p
        # Doubling twice from y = 0 and back: y of order 1, 2, 4 and the roots y² = -x² of order 8.
        orders = {1, p - 1, 0}
        for y in jwk._SMALL_ORDER_Y - orders:
            x_squared = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
            assert (y * y + x_squared) % p == 0, "doubling gives y = 0, a point of order 4"
        assert len(jwk._SMALL_ORDER_Y) == 5
        for y in jwk._SMALL_ORDER_Y:
            for sign in (0, 1 << 255):
                x = b64url((y | sign).to_bytes(32, "little"))
                with pytest.raises(KeyFormatError, match="must not be used"):
                    public_key_from_jwk({**RFC8037_JWK, "x": x})

    @pytest.mark.parametrize(
        "public_key",
        [
            rsa.generate_private_key(65537, 2048).public_key(),
            ec.derive_private_key(7, ec.SECP521R1()).public_key(),
        ],
        ids=["rsa", "p521"],
    )
    def test_other_kinds_of_key_objects_are_refused(self, public_key: Any) -> None:
        with pytest.raises(jwk.UnsupportedKeyError):
            jwk_from_public_key(public_key)


class TestVerify:
    @given(private_keys, st.binary(max_size=200))
    def test_good_signature_holds_and_a_flipped_bit_does_not(
        self, private: Any, message: bytes
    ) -> None:
        k = VerificationKey.from_public_key(
            private.public_key(), kid="k", purpose=KeyPurpose.WITNESS
        )
        if k.algorithm is Algorithm.ECDSA_P256:
            signature = private.sign(message, ec.ECDSA(hashes.SHA256()))
        elif k.algorithm is Algorithm.ECDSA_P384:
            signature = private.sign(message, ec.ECDSA(hashes.SHA384()))
        else:
            signature = private.sign(message)
        k.verify(signature, message)
        with pytest.raises(InvalidSignatureError, match="'k'"):
            k.verify(signature, message + b"x")
        for bad in (b"", signature[:-1], bytes([signature[0] ^ 1]) + signature[1:]):
            with pytest.raises(InvalidSignatureError):
                k.verify(bad, message)

    @pytest.mark.parametrize(
        ("changes", "time_ns", "why"),
        [
            ({}, 100, None),
            ({}, 99, "not valid yet"),
            ({"not_after_ns": 200, "state": KeyState.DRAINING}, 200, None),
            ({"not_after_ns": 200, "state": KeyState.RETIRED}, 201, "no longer valid"),
            (
                {"not_after_ns": 200, "state": KeyState.REVOKED, "revocation_reason": "stolen"},
                150,
                "revoked .stolen.",
            ),
        ],
    )
    def test_validity(self, changes: dict[str, Any], time_ns: int, why: str | None) -> None:
        k = key(not_before_ns=100, **changes)
        if why is None:
            k.check_valid_at(time_ns)
            return
        with pytest.raises(VerificationError, match=why) as caught:
            k.check_valid_at(time_ns)
        assert caught.value.check == "key validity"


class TestVkey:
    def test_ed25519_has_type_1_and_its_key_id_covers_the_name(self) -> None:
        """The key of RFC 8032 §7.1 test 1; recomputed by hand from c2sp.org/signed-note."""
        k = VerificationKey.from_public_key(
            public_key_from_jwk(RFC8037_JWK), kid="log", purpose=KeyPurpose.CHECKPOINT
        )
        raw = base64.urlsafe_b64decode(RFC8037_JWK["x"] + "=")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(b"log.example/1\n\x01" + raw)
        expected_id = digest.finalize()[:4].hex()
        blob = base64.b64encode(b"\x01" + raw).decode()
        assert k.vkey("log.example/1") == f"log.example/1+{expected_id}+{blob}"

    def test_p256_has_type_2_and_its_key_id_does_not(self) -> None:
        k = VerificationKey.from_public_key(
            ec_private(5).public_key(), kid="log", purpose=KeyPurpose.CHECKPOINT
        )
        first, second = k.vkey("a.example").split("+", 2), k.vkey("b.example").split("+", 2)
        assert first[1:] == second[1:]
        assert base64.b64decode(first[2])[0] == 2

    @pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\x01"])
    def test_origin_that_cannot_be_a_key_name_is_refused(self, origin: str) -> None:
        with pytest.raises(NoteError):
            key().vkey(origin)


@pytest.mark.parametrize("private", [p384_private(1), mldsa.MLDSA44PrivateKey.generate()])
def test_a_checkpoint_key_is_of_a_kind_that_notes_know(private: Any) -> None:
    """Others are left out of a set, as those of unknown kinds are."""
    with pytest.raises(jwk.UnsupportedKeyError, match="must be Ed25519 or P-256"):
        VerificationKey.from_public_key(
            private.public_key(), kid="c", purpose=KeyPurpose.CHECKPOINT
        )
    k = VerificationKey.from_public_key(private.public_key(), kid="c", purpose=KeyPurpose.HEAD)
    doc = {"keys": [k.to_jwk()]}
    assert KeySet.parse(doc).keys == (k,)
    doc["keys"][0]["provledger"]["purpose"] = "checkpoint"
    assert KeySet.parse(doc).ignored == ("c",)


instants = st.integers(0, 2**63 - 1)


@st.composite
def key_sets(draw: st.DrawFn) -> KeySet:
    privates = draw(st.lists(private_keys, max_size=4, unique_by=lambda k: str(k.public_key())))
    keys = {}
    for index, private in enumerate(privates):
        state = draw(st.sampled_from([s for s in KeyState if s is not KeyState.PENDING]))
        noted = jwk.algorithm_of(private.public_key()) in (Algorithm.ED25519, Algorithm.ECDSA_P256)
        purposes = [p for p in KeyPurpose if noted or p is not KeyPurpose.CHECKPOINT]
        k = VerificationKey.from_public_key(
            private.public_key(),
            kid=f"k{index}",
            purpose=draw(st.sampled_from(purposes)),
            epoch=draw(st.integers(1, 2**63 - 1)),
            state=state,
            not_before_ns=draw(instants),
            not_after_ns=draw(st.none() | instants),
            revocation_reason=draw(st.text(st.characters(codec="utf-8"), max_size=20))
            if state is KeyState.REVOKED
            else "",
        )
        keys[k.thumbprint] = k
    return KeySet(keys.values())


def document(*keys: VerificationKey) -> dict[str, Any]:
    return {"keys": [k.to_jwk() for k in keys]}


class TestKeySet:
    @given(key_sets())
    def test_round_trip_from_values_and_from_bytes(self, keys: KeySet) -> None:
        data = keys.encode()
        for form in (data, data.decode(), json.loads(data)):
            parsed = KeySet.parse(form)
            assert parsed == keys
            assert parsed.encode() == data

    def test_open_ended_key_looks_like_the_documentation_says(self) -> None:
        k = VerificationKey.from_public_key(
            public_key_from_jwk(RFC8037_JWK),
            kid="witness-1",
            purpose=KeyPurpose.WITNESS,
            not_before_ns=1_735_689_600_000_000_000,
        )
        assert KeySet([k]).encode() == (
            b'{"keys":[{"alg":"EdDSA","crv":"Ed25519","kid":"witness-1","kty":"OKP","provledger":'
            b'{"epoch":"1","notBeforeNs":"1735689600000000000","purpose":"witness",'
            b'"state":"active"},"use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
        )

    def test_find_wants_kid_purpose_thumbprint_and_epoch_to_agree(self) -> None:
        keys = KeySet([key(1), key(2)])
        one = key(1)
        found = keys.find(
            purpose="witness", kid="witness-1", thumbprint=one.thumbprint, epoch=one.epoch
        )
        assert found == one
        cases: list[tuple[dict[str, Any], str]] = [
            ({"kid": "witness-3"}, "not in the given key set"),
            ({"purpose": KeyPurpose.HEAD}, "has purpose witness"),
            ({"thumbprint": key(2).thumbprint}, "another key"),
            ({"epoch": 2}, "epoch"),
        ]
        for wrong, why in cases:
            named = {"purpose": "witness", "kid": "witness-1", **wrong}
            with pytest.raises(VerificationError, match=why):
                keys.find(**named)

    def test_for_purpose_is_ordered_by_epoch(self) -> None:
        keys = KeySet([key(3), key(1), key(2, purpose=KeyPurpose.HEAD)])
        assert [k.kid for k in keys.for_purpose("witness")] == ["witness-1", "witness-3"]
        assert len(keys) == 3
        assert "witness-2" in keys

    def test_one_kid_for_two_keys_is_refused(self) -> None:
        with pytest.raises(KeyFormatError, match="occurs twice"):
            KeySet.parse(document(key(1), replace(key(2), kid="witness-1")))

    def test_one_key_under_two_kids_is_refused(self) -> None:
        with pytest.raises(KeyFormatError, match="the same key"):
            KeySet.parse(document(key(1), key(1, kid="other")))

    def test_keys_of_unknown_kind_are_left_out_and_remembered(self) -> None:
        """RFC 7517 §5; a verifier that meets such a kid says why it does not know it."""
        doc = document(key(1), key(2))
        doc["keys"].append({"kty": "AKP", "alg": "ML-DSA-87", "kid": "pq-1", "pub": "AA"})
        doc["keys"][1]["provledger"]["purpose"] = "recovery"
        keys = KeySet.parse(doc)
        assert [k.kid for k in keys] == ["witness-1"]
        assert sorted(keys.ignored) == ["pq-1", "witness-2"]
        with pytest.raises(VerificationError, match="of a kind this version does not know"):
            keys.find(purpose="witness", kid="pq-1")

    def test_a_kid_used_by_an_unknown_kind_is_still_taken(self) -> None:
        doc = document(key(1))
        doc["keys"].append({"kty": "AKP", "kid": "witness-1", "pub": "AA"})
        with pytest.raises(KeyFormatError, match="occurs twice"):
            KeySet.parse(doc)

    @pytest.mark.parametrize(
        ("path", "value", "why"),
        [
            (("kid",), "-bad", "kid"),
            (("kid",), None, "kid"),
            (("kid",), "a" * 64, "kid"),
            (("d",), "AA", "private"),
            (("provledger",), None, "provledger"),
            (("provledger", "purpose"), 1, "purpose"),
            (("provledger", "state"), "pending", "state"),
            (("provledger", "state"), [], "state"),
            (("provledger", "epoch"), "0", "epoch"),
            (("provledger", "epoch"), 1, "epoch"),
            (("provledger", "epoch"), "01", "epoch"),
            (("provledger", "notBeforeNs"), "-1", "notBeforeNs"),
            (("provledger", "notBeforeNs"), "9223372036854775808", "notBeforeNs"),
            (("provledger", "notBeforeNs"), "١", "notBeforeNs"),
            (("provledger", "notAfterNs"), None, "notAfterNs"),
            (("provledger", "revocationReason"), 5, "revocationReason"),
            (("provledger", "revocationReason"), "x" * 1025, "revocationReason"),
        ],
    )
    def test_malformed_member_is_named(self, path: tuple[str, ...], value: Any, why: str) -> None:
        doc = copy.deepcopy(document(key(1)))
        target = doc["keys"][0]
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value
        with pytest.raises(KeyFormatError, match=why) as caught:
            KeySet.parse(doc)
        assert "keys[0]" in str(caught.value)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"{}",
            b'{"keys":{}}',
            b'{"keys":[1]}',
            b'{"keys":[],"keys":[]}',
            b"\xff",
            "\ud800",
            b'{"keys":[NaN]}',
        ],
    )
    def test_input_that_is_no_jwk_set_is_refused(self, data: bytes | str) -> None:
        with pytest.raises(KeyFormatError):
            KeySet.parse(data)

    @given(st.binary(max_size=60) | st.text(max_size=60))
    def test_any_input_gives_a_set_or_our_error(self, data: bytes | str) -> None:
        try:
            KeySet.parse(data)
        except KeyFormatError:
            pass

    def test_set_with_thousands_of_keys_is_read(self) -> None:
        keys = KeySet([key(n) for n in range(1, 1500)])
        assert KeySet.parse(keys.encode()) == keys
