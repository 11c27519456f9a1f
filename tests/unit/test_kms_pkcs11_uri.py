"""PKCS#11 URIs: what is read, what is refused, and that a PIN never comes back in a message."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import given

from provledger.kms._pkcs11_uri import parse
from provledger.kms.errors import KMSConfigError
from provledger.kms.pkcs11 import PKCS11Provider

KEY_DIR = Path("/keys")
WHERE = "?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"
GOOD = f"pkcs11:token=ledger;object=witness-1{WHERE}"


def test_uri_is_read_into_its_parts() -> None:
    uri = parse(
        "pkcs11:token=The%20token;serial=12ab;manufacturer=SoftHSM;model=v2;object=witness-1;"
        f"id=%01%ff;type=private{WHERE}",
        KEY_DIR,
    )
    assert (uri.token, uri.serial, uri.manufacturer, uri.model) == (
        *("The token", "12ab", "SoftHSM", "v2"),
    )
    assert (uri.object, uri.id) == ("witness-1", b"\x01\xff")
    assert uri.module_path == Path("/usr/lib/softhsm/libsofthsm2.so")
    assert uri.pin_source == Path("/run/pin")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:/run/pin", "/run/pin"),
        ("file:///run/pin", "/run/pin"),
        ("file:pins/witness", "/keys/pins/witness"),
    ],
)
def test_pin_source_is_a_file(given: str, path: str) -> None:
    uri = f"pkcs11:token=t;object=o?module-path=/m.so&pin-source={given}"
    assert parse(uri, KEY_DIR).pin_source == Path(path)


def test_pin_source_may_be_left_out() -> None:
    assert parse("pkcs11:serial=1;id=%00?module-path=/m.so", KEY_DIR).pin_source is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("local:key.pem", "must look like pkcs11:"),
        ("pkcs11:", "must name the token"),
        (f"pkcs11:object=o{WHERE}", "must name the token"),
        (f"pkcs11:token=t{WHERE}", "must name the key"),
        (f"pkcs11:token=t;object=o;type=public{WHERE}", "type must be private"),
        (f"pkcs11:token=t;object=o;type=private;type=private{WHERE}", "given twice"),
        (f"pkcs11:token=t;token=u;object=o{WHERE}", "token is given twice"),
        (f"pkcs11:token=t;objekt=o{WHERE}", "unknown attribute objekt; known are id, "),
        (f"pkcs11:token=t;slot-id=1;object=o{WHERE}", "unknown attribute slot-id"),
        (f"pkcs11:token=;object=o{WHERE}", "must read name=value"),
        (f"pkcs11:token;object=o{WHERE}", "must read name=value"),
        (f"pkcs11:token=t;object=o;{WHERE}", "must read name=value"),
        (f"pkcs11:token=a b;object=o{WHERE}", "percent-encoded"),
        (f"pkcs11:token=t;object=%zz{WHERE}", "percent-encoded"),
        (f"pkcs11:token=t;object=%ff{WHERE}", "not UTF-8"),
        (f"pkcs11:token=t;object=%0a{WHERE}", "control character"),
        ("pkcs11:token=t;object=o", "needs .module-path="),
        ("pkcs11:token=t;object=o?pin-source=file:/p", "needs .module-path="),
        ("pkcs11:token=t;object=o?module-path=lib.so", "needs .module-path="),
        ("pkcs11:token=t;object=o?module-path=/usr/lib/../../x.so", "needs .module-path="),
        ("pkcs11:token=t;object=o?module-name=softhsm", "unknown attribute module-name"),
        ("pkcs11:token=t;object=o?token=t&module-path=/m.so", "other side of the ?"),
        ("pkcs11:token=t;module-path=/m.so;object=o", "other side of the ?"),
        (f"pkcs11:token=t;object=o{WHERE}&pin-source=file:/q", "given twice"),
        ("pkcs11:token=t;object=o?module-path=/m.so&pin-source=/p", "must be file:"),
        ("pkcs11:token=t;object=o?module-path=/m.so&pin-source=|prog", "must be file:"),
        ("pkcs11:token=t;object=o?module-path=/m.so&pin-source=file:", "must be file:"),
        ("pkcs11:token=t;object=o?module-path=/m.so&pin-source=file:../p", "must be file:"),
    ],
)
def test_bad_uri_is_refused_with_the_part_that_is_wrong(uri: str, message: str) -> None:
    with pytest.raises(KMSConfigError, match=message):
        parse(uri, KEY_DIR)


def test_pin_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(KMSConfigError) as raised:
        parse(f"{GOOD}&pin-value=13579", KEY_DIR)
    assert "pin-source=file:" in str(raised.value)
    assert "13579" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        f"{GOOD}&pin-valu=13579",
        f"{GOOD}&PIN-VALUE=13579",
        f"{GOOD}&pin=13579",
        f"{GOOD}&13579",
        f"{GOOD}&=13579",
        f"{GOOD}&pin-source=13579",
        "pkcs11:token=t;object=o?module-path=/m.so&pin-source=13579",
        f"pkcs11:token=t;object=o;pinvalue=13579{WHERE}",
        f"pkcs11:token=t;object=o;pin-source=13579{WHERE}",
        f"pkcs11:pin-valu=13579{WHERE}",
        "pkcs11:pin-valu=13579",
        "pksc11:token=t;pin-valu=13579",
    ],
)
def test_what_may_be_a_pin_in_the_wrong_place_is_not_repeated(uri: str) -> None:
    with pytest.raises(KMSConfigError) as raised:
        parse(uri, KEY_DIR)
    assert "13579" not in str(raised.value)


def test_refused_uri_shows_what_it_may() -> None:
    with pytest.raises(KMSConfigError) as raised:
        parse(f"{GOOD}&pin-valu=13579", KEY_DIR)
    assert f"{GOOD}&pin-valu=..." in str(raised.value)
    assert "unknown attribute pin-valu; known are module-path, pin-source" in str(raised.value)


def test_provider_checks_uris_without_looking_for_the_module() -> None:
    provider = PKCS11Provider(KEY_DIR)
    provider.check_uri("pkcs11:token=t;object=o?module-path=/not/there.so")
    with pytest.raises(KMSConfigError):
        provider.check_uri("pkcs11:token=t")


@given(
    token=st.text(st.characters(codec="utf-8"), min_size=1).filter(str.isprintable),
    key_id=st.binary(min_size=1, max_size=32),
)
def test_any_label_and_id_survive_percent_encoding(token: str, key_id: bytes) -> None:
    uri = parse(f"pkcs11:token={quote(token, safe='')};id={quote(key_id, safe='')}{WHERE}", KEY_DIR)
    assert (uri.token, uri.id) == (token, key_id)


@given(st.text())
def test_any_text_is_read_or_refused_with_our_error(text: str) -> None:
    try:
        parse(f"pkcs11:{text}", KEY_DIR)
    except KMSConfigError:
        pass
