"""Names and identifiers: what is accepted, and the damaged neighbours that are not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import names
from provledger.errors import IdentifierError

UUID7 = "019a9e2b-6c00-7abc-8def-000000000001"

# check: (accepted, refused)
CHECKS: dict[Callable[[str, str], str], tuple[list[str], list[str]]] = {
    names.check_label: (
        ["a", "acme", "a-b", "a1", "a--b", "a" * 63],
        ["", "1a", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "ä", "a\n", " a", "a/b"],
    ),
    names.check_kid: (
        ["a", "A1", "witness-1", "w_1.2", "k" * 63],
        ["", "-a", ".a", "_a", "a b", "a/b", "k" * 64, "ä", "a\n"],
    ),
    names.check_request_id: (
        ["x", "!~", "a/b?c=d", UUID7, "x" * 128],
        ["", " ", "a b", "x" * 129, "ä", "a\n", "a\x7f", "a\x00"],
    ),
    names.check_op_id: (["", "x", "x" * 128], ["a b", "x" * 129, "ä"]),
    names.check_resource_type: (
        ["Version", "a b", "äöü", "x" * 256, "ä" * 128],
        ["", "a/b", "/", "x" * 257, "ä" * 129, "a\n", "a\x85", "a\u2028b", "\ud800"],
    ),
    names.check_resource_id: (
        ["redis/8.8.2", "x" * 1024, "é" * 512, "\U0001f600"],
        ["", "x" * 1025, "é" * 513, "a\tb", "\x7f", "\x9f", "\u2029"],
    ),
    names.check_receipt_type: (
        ["a", "mutation", "evidence.recovery", "a_b.c1", "a" * 64],
        ["", "A", "1a", ".a", "a.", "a..b", "a._b", "a-b", "a b", "a" * 65, "ä", "a\n"],
    ),
    names.check_media_type: (
        ["application/json", "text/plain", "application/vnd.x+json", "a/b", "A/B"],
        [
            "",
            "json",
            "a/",
            "/b",
            "a/b/c",
            "text/plain; charset=utf-8",
            "a b/c",
            "a/b\n",
            f"a/{'b' * 64}",
            "ä/b",
            ".a/b",
        ],
    ),
    names.check_trace_id: (
        ["", "0af7651916cd43dd8448eb211c80319c", "0" * 31 + "1"],
        ["0" * 32, "0AF7651916CD43DD8448EB211C80319C", "0af7", "g" * 32, "0" * 33, "٠" * 32],
    ),
    names.check_rfc3339: (
        [
            "",
            "2024-01-02T03:04:05Z",
            "2024-01-02t03:04:05z",
            "2024-02-29T23:59:60+01:00",
            "2023-12-31T18:30:35.123456789-23:59",
        ],
        [
            "2024-01-02",
            "2024-01-02 03:04:05Z",
            "2024-01-02T03:04:05",
            "2023-02-29T03:04:05Z",
            "2024-13-01T03:04:05Z",
            "2024-00-01T03:04:05Z",
            "2024-01-32T03:04:05Z",
            "2024-01-02T24:04:05Z",
            "2024-01-02T03:60:05Z",
            "2024-01-02T03:04:61Z",
            "2024-01-02T03:04:05.Z",
            "2024-01-02T03:04:05.1234567890Z",
            "2024-01-02T03:04:05+24:00",
            "2024-01-02T03:04:05+0100",
            "0000-01-02T03:04:05Z",
            "٢٠٢٤-01-02T03:04:05Z",
            "2024-01-02T03:04:05Z\n",
        ],
    ),
}


@pytest.mark.parametrize(
    ("check", "value"),
    [(check, value) for check, (accepted, _) in CHECKS.items() for value in accepted],
    ids=lambda x: x.__name__ if callable(x) else ascii(x)[:40],
)
def test_accepted_unchanged(check: Callable[[str, str], str], value: str) -> None:
    assert check(value, "field") == value


@pytest.mark.parametrize(
    ("check", "value"),
    [(check, value) for check, (_, refused) in CHECKS.items() for value in refused],
    ids=lambda x: x.__name__ if callable(x) else ascii(x)[:40],
)
def test_refused_by_field_without_the_value(check: Callable[[str, str], str], value: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        check(value, "some.field")
    assert caught.value.field == "some.field"
    assert str(caught.value).startswith("some.field: ")
    assert len(value) < 12 or value not in str(caught.value)


def test_optional_text_may_be_empty() -> None:
    assert names.check_text("", "field", required=False) == ""
    with pytest.raises(IdentifierError, match="required"):
        names.check_text("", "field")


@given(st.text(max_size=40), st.integers(1, 20))
def test_text_is_bounded_in_utf8_and_free_of_controls(value: str, limit: int) -> None:
    try:
        names.check_text(value, "field", max_bytes=limit, required=False)
    except IdentifierError:
        return
    assert len(value.encode()) <= limit
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value)


@pytest.mark.parametrize(
    ("media_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/vnd.x+json", True),
        ("image/svg+xml", False),
        ("text/json5", False),
        ("application/json-seq", False),
    ],
)
def test_json_media_types(media_type: str, is_json: bool) -> None:
    assert names.is_json_media_type(media_type) is is_json


class TestFullNames:
    def test_built_names_parse(self) -> None:
        tenant = names.tenant_name("acme")
        ledger = names.ledger_name("acme", "main")
        receipt = names.receipt_name(ledger, UUID7)
        assert (tenant, ledger) == ("tenants/acme", "tenants/acme/ledgers/main")
        assert names.parse_tenant_name(tenant) == "acme"
        assert names.parse_ledger_name(ledger) == ("acme", "main")
        assert names.parse_receipt_name(receipt) == (ledger, UUID7)
        assert names.parse_key_name("keys/witness-1") == "witness-1"
        assert names.parse_log_name("logs/" + "0a" * 16) == b"\x0a" * 16
        assert names.parse_log_name("logs/-") is None

    @pytest.mark.parametrize(
        ("parse", "name"),
        [
            (names.parse_tenant_name, "acme"),
            (names.parse_tenant_name, "tenants/"),
            (names.parse_tenant_name, "tenants/Acme"),
            (names.parse_tenant_name, "tenants/acme/"),
            (names.parse_tenant_name, "tenants/acme\n"),
            (names.parse_ledger_name, "tenants/acme"),
            (names.parse_ledger_name, "tenants/acme/ledgers/-"),
            (names.parse_ledger_name, "/tenants/acme/ledgers/main"),
            (names.parse_ledger_name, "tenants/acme/ledgers/main/receipts/x"),
            (names.parse_receipt_name, f"tenants/acme/ledgers/main/receipts/{UUID7.upper()}"),
            (names.parse_receipt_name, "tenants/acme/ledgers/main/receipts/1"),
            (names.parse_receipt_name, UUID7),
            (names.parse_log_name, "logs/" + "0A" * 16),
            (names.parse_log_name, "logs/00"),
            (names.parse_key_name, "keys/"),
            (names.parse_key_name, "keys/a/b"),
        ],
    )
    def test_other_names_are_refused(self, parse: Callable[[str], object], name: str) -> None:
        with pytest.raises(IdentifierError, match="must look like"):
            parse(name)

    def test_bad_parts_are_refused_when_building(self) -> None:
        with pytest.raises(IdentifierError, match="tenant"):
            names.ledger_name("Acme", "main")
        with pytest.raises(IdentifierError, match="ledger"):
            names.ledger_name("acme", "Main")


class TestReceiptIds:
    @given(st.integers(0, 2**48 * 1_000_000 - 1), st.binary(min_size=10, max_size=10))
    def test_uuid7_holds_its_time_and_reads_back(self, now_ns: int, random: bytes) -> None:
        value = names.uuid7(now_ns, random)
        uuid = UUID(bytes=value)
        assert uuid.version == 7
        assert uuid.variant == "specified in RFC 4122"
        assert int.from_bytes(value[:6], "big") == now_ns // 1_000_000
        text = names.receipt_id_text(value)
        assert text == str(uuid)
        assert names.receipt_id_bytes(text) == value

    def test_receipt_tells_its_millisecond(self) -> None:
        def name(now_ns: int) -> str:
            made = names.receipt_id_text(names.uuid7(now_ns, bytes(10)))
            return names.receipt_name("tenants/acme/ledgers/main", made)

        now_ns = 1_763_665_200_123_456_789
        assert names.receipt_time_ns(name(now_ns)) == 1_763_665_200_123_000_000
        for wrong in (name(2**63), name(now_ns)[:-1]):
            with pytest.raises(IdentifierError, match="receipt"):
                names.receipt_time_ns(wrong, "receipt")

    def test_all_other_bits_are_random(self) -> None:
        zeros = int.from_bytes(names.uuid7(0, bytes(10)), "big")
        ones = int.from_bytes(names.uuid7(0, b"\xff" * 10), "big")
        assert (zeros ^ ones).bit_count() == 74

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            bytes(16),
            names.uuid7(0, bytes(10))[:15],
            names.uuid7(0, bytes(10)) + b"\0",
            names.uuid7(0, bytes(10)).replace(b"\x70", b"\x40"),
            names.uuid7(0, bytes(10)).replace(b"\x80", b"\xc0"),
        ],
        ids=["empty", "zeros", "short", "long", "version 4", "variant"],
    )
    def test_other_bytes_are_refused(self, value: bytes) -> None:
        with pytest.raises(IdentifierError, match="UUIDv7"):
            names.receipt_id_text(value)

    @pytest.mark.parametrize(
        "text", ["", UUID7.upper(), UUID7.replace("-", ""), UUID7.replace("7abc", "4abc"), "x"]
    )
    def test_other_texts_are_refused(self, text: str) -> None:
        with pytest.raises(IdentifierError, match="UUIDv7"):
            names.receipt_id_bytes(text)

    @pytest.mark.parametrize("length", [0, 15, 17])
    def test_uid_of_another_length_is_refused(self, length: int) -> None:
        assert names.check_uid(bytes(16), "uid") == bytes(16)
        with pytest.raises(IdentifierError, match="16 bytes"):
            names.check_uid(bytes(length), "uid")


class TestTimestamps:
    @pytest.mark.parametrize(
        ("t_ns", "text"),
        [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (1_763_665_200_123_456_789, "2025-11-20T19:00:00.123456789Z"),
            (1_763_665_200_999_999_999, "2025-11-20T19:00:00.999999999Z"),
        ],
    )
    def test_nine_decimals_and_no_rounding(self, t_ns: int, text: str) -> None:
        assert names.timestamp_iso(t_ns) == text

    @given(st.integers(0, 2**63 - 1))
    def test_every_time_is_the_same_to_datetime(self, t_ns: int) -> None:
        text = names.timestamp_iso(t_ns)
        seconds = int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())
        assert seconds * 10**9 + int(text[20:29]) == t_ns
        assert names.check_rfc3339(text) == text
