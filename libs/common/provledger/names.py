"""Resource names, identifiers and their rules (AIP-122), for every service and tool of ours.

Names look like this::

    tenants/{tenant}
    tenants/{tenant}/ledgers/{ledger}
    tenants/{tenant}/ledgers/{ledger}/receipts/{receipt}     receipt: UUIDv7, RFC 9562 §5.7
    logs/{log}                                               log: uid, 32 lower-case hex digits
    keys/{kid}

Every function raises `provledger.errors.IdentifierError` naming the field it was asked about.
Whether a thing of that name exists, and who may see it, is not decided here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from provledger.errors import IdentifierError

MAX_ID_BYTES = 256
MAX_RESOURCE_ID_BYTES = 1024
MAX_REQUEST_ID_CHARS = 128
UID_BYTES = 16

_LABEL = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_LABEL_RE = re.compile(_LABEL)
_TENANT_RE = re.compile(rf"tenants/({_LABEL})")
_LEDGER_RE = re.compile(rf"tenants/({_LABEL})/ledgers/({_LABEL})")
_RECEIPT_RE = re.compile(rf"(tenants/{_LABEL}/ledgers/{_LABEL})/receipts/({_UUID7})")
_LOG_RE = re.compile(r"logs/([0-9a-f]{32})")
# Leaves room in 63 bits for what is added to it.
_MAX_RECEIPT_TIME_NS = 2**62
_KEY_RE = re.compile(r"keys/([A-Za-z0-9][A-Za-z0-9._-]{0,62})")
_KID_RE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_UUID7_RE = re.compile(_UUID7)
_REQUEST_ID_RE = re.compile(r"[!-~]{1,128}")
_RECEIPT_TYPE_RE = re.compile(r"[a-z][a-z0-9]*(?:[._][a-z0-9]+)*")
_MEDIA_TYPE_RE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}"
)
_TRACE_ID_RE = re.compile(r"[0-9a-f]{32}")
# C0, DEL and C1 controls, the line and paragraph separators, and lone surrogates.
_CONTROL_RE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_RFC3339_RE = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)"
    r"(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


def tenant_name(tenant: str) -> str:
    """Return `tenants/{tenant}` for a valid tenant id."""
    return f"tenants/{check_label(tenant, 'tenant')}"


def ledger_name(tenant: str, ledger: str) -> str:
    """Return `tenants/{tenant}/ledgers/{ledger}` for valid ids."""
    return f"{tenant_name(tenant)}/ledgers/{check_label(ledger, 'ledger')}"


def receipt_name(ledger: str, receipt_id: str) -> str:
    """Return the full name of a receipt, from its ledger's name and its UUIDv7 text."""
    return f"{ledger}/receipts/{receipt_id}"


def tenant_of(name: str) -> str:
    """The tenant in any name that begins with `tenants/{tenant}`, unchecked; "" where there is
    none."""
    parts = name.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "tenants" else ""


def parse_tenant_name(name: str, field: str = "parent") -> str:
    """Return the tenant id of `tenants/{tenant}`."""
    match = _TENANT_RE.fullmatch(name)
    if match is None:
        raise IdentifierError(field, "must look like tenants/{tenant}")
    return match[1]


def parse_ledger_name(name: str, field: str = "ledger") -> tuple[str, str]:
    """Return (tenant id, ledger id) of `tenants/{tenant}/ledgers/{ledger}`."""
    match = _LEDGER_RE.fullmatch(name)
    if match is None:
        raise IdentifierError(field, "must look like tenants/{tenant}/ledgers/{ledger}")
    return match[1], match[2]


def parse_receipt_name(name: str, field: str = "name") -> tuple[str, str]:
    """Return (ledger name, UUIDv7 text) of a receipt's full name."""
    match = _RECEIPT_RE.fullmatch(name)
    if match is None:
        raise IdentifierError(
            field, "must look like tenants/{tenant}/ledgers/{ledger}/receipts/{uuid7}"
        )
    return match[1], match[2]


def parse_log_name(name: str, field: str = "log") -> bytes | None:
    """Return the 16-byte uid of `logs/{log}`, or None for `logs/-`, the service's default log."""
    if name == "logs/-":
        return None
    match = _LOG_RE.fullmatch(name)
    if match is None:
        raise IdentifierError(field, "must look like logs/{32 hex digits} or logs/-")
    return bytes.fromhex(match[1])


def parse_key_name(name: str, field: str = "name") -> str:
    """Return the kid of `keys/{kid}`."""
    match = _KEY_RE.fullmatch(name)
    if match is None:
        raise IdentifierError(field, "must look like keys/{kid}")
    return match[1]


def check_label(value: str, field: str) -> str:
    """Return a tenant or ledger id unchanged if it is 1 to 63 of a-z, 0-9 and `-`."""
    if _LABEL_RE.fullmatch(value) is None:
        raise IdentifierError(
            field, "must begin with a-z, hold only a-z, 0-9 and -, not end in -, 63 at most"
        )
    return value


def check_kid(value: str, field: str = "kid") -> str:
    """Return a key id unchanged if it is 1 to 63 of the allowed characters."""
    if _KID_RE.fullmatch(value) is None:
        raise IdentifierError(
            field, "must be 1 to 63 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
        )
    return value


def check_request_id(value: str, field: str = "request_id") -> str:
    """Return a request id unchanged if it is 1 to 128 printable ASCII characters, no space."""
    if _REQUEST_ID_RE.fullmatch(value) is None:
        raise IdentifierError(field, "must be 1 to 128 printable ASCII characters without space")
    return value


def check_op_id(value: str, field: str) -> str:
    """Return an operation id unchanged if it is empty or has the form of a request id."""
    return check_request_id(value, field) if value else value


def check_text(
    value: str, field: str, *, max_bytes: int = MAX_ID_BYTES, required: bool = True
) -> str:
    """Return identifying text unchanged if it fits `max_bytes` of UTF-8 and has no controls."""
    if not value:
        if required:
            raise IdentifierError(field, "is required")
        return value
    # First of all, so that text of any length costs no more than a glance.
    if len(value) > max_bytes:
        raise IdentifierError(field, f"must be at most {max_bytes} bytes of UTF-8")
    if value.isascii() and value.isprintable():
        size_bytes = len(value)
    elif _CONTROL_RE.search(value):
        raise IdentifierError(field, "must not hold control characters or lone surrogates")
    else:
        size_bytes = len(value.encode())
    if size_bytes > max_bytes:
        raise IdentifierError(field, f"must be at most {max_bytes} bytes of UTF-8")
    return value


def check_resource_type(value: str, field: str = "resource_type") -> str:
    """Return a resource type unchanged: as `check_text`, and without `/`."""
    if "/" in value:
        raise IdentifierError(field, "must not hold a slash")
    return check_text(value, field)


def check_resource_id(value: str, field: str = "resource_id") -> str:
    """Return a resource id unchanged: as `check_text`, up to 1,024 bytes."""
    return check_text(value, field, max_bytes=MAX_RESOURCE_ID_BYTES)


def check_receipt_type(value: str, field: str = "receipt_type") -> str:
    """Return a receipt type unchanged if it is lower-case words joined by `.` or `_`."""
    if len(value) > 64 or _RECEIPT_TYPE_RE.fullmatch(value) is None:
        raise IdentifierError(field, "must be lower-case words joined by . or _, 64 at most")
    return value


def check_media_type(value: str, field: str = "media_type") -> str:
    """Return a media type unchanged if it is `type/subtype` without parameters (RFC 6838 §4.2)."""
    if _MEDIA_TYPE_RE.fullmatch(value) is None:
        raise IdentifierError(field, "must be a media type without parameters")
    return value


def is_json_media_type(value: str) -> bool:
    """Say whether payloads of this type are strict JSON (RFC 6839 §3.1)."""
    lowered = value.lower()
    return lowered == "application/json" or lowered.endswith("+json")


def check_trace_id(value: str, field: str = "origin.trace_id") -> str:
    """Return a W3C trace id unchanged if it is empty, or 32 lower-case hex digits not all zero."""
    if value and (_TRACE_ID_RE.fullmatch(value) is None or value == "0" * 32):
        raise IdentifierError(field, "must be 32 lower-case hex digits, not all zero")
    return value


def check_rfc3339(value: str, field: str = "occurred_at") -> str:
    """Return a timestamp unchanged if it is empty or RFC 3339 §5.6 with an offset."""
    if not value:
        return value
    if _RFC3339_RE.fullmatch(value) is None:
        raise IdentifierError(field, "must be an RFC 3339 time with an offset")
    # Every month has 28 days, and every year but the year 0 exists.
    if value[8:10] > "28" or value.startswith("0000"):
        try:
            datetime(int(value[:4]), int(value[5:7]), int(value[8:10]), tzinfo=UTC)
        except ValueError as error:
            raise IdentifierError(field, "names a day that does not exist") from error
    return value


def check_uid(value: bytes, field: str) -> bytes:
    """Return a ledger or log uid unchanged if it is 16 bytes."""
    if len(value) != UID_BYTES:
        raise IdentifierError(field, "must be 16 bytes")
    return value


def receipt_id_text(value: bytes, field: str = "receipt_id") -> str:
    """Return the text of a 16-byte UUIDv7."""
    if len(value) != 16 or value[6] >> 4 != 7 or value[8] >> 6 != 2:
        raise IdentifierError(field, "must be a UUIDv7 in 16 bytes")
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def receipt_id_bytes(text: str, field: str = "receipt_id") -> bytes:
    """Return the 16 bytes of a UUIDv7 in its canonical text."""
    if _UUID7_RE.fullmatch(text) is None:
        raise IdentifierError(field, "must be a UUIDv7 in lower-case canonical text")
    return bytes.fromhex(text.replace("-", ""))


def uuid7(now_ns: int, random_10: bytes) -> bytes:
    """Make a UUIDv7 (RFC 9562 §5.7) from a Unix time in nanoseconds and ten random bytes."""
    value = (
        (now_ns // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (int.from_bytes(random_10[:2], "big") & 0xFFF) << 64
        | 0b10 << 62
        | int.from_bytes(random_10[2:], "big") & 0x3FFF_FFFF_FFFF_FFFF
    )
    return value.to_bytes(16, "big")


def receipt_time_ns(name: str, field: str = "name") -> int:
    """When the ledger service took in the draft of a receipt, by its full name: Unix nanoseconds,
    in whole milliseconds; raises IdentifierError, also for times that no clock of ours shows."""
    _, text = parse_receipt_name(name, field)
    time_ns = int.from_bytes(receipt_id_bytes(text, field)[:6], "big") * 1_000_000
    if time_ns > _MAX_RECEIPT_TIME_NS:
        raise IdentifierError(field, "is of a time after the year 2100")
    return time_ns


def timestamp_iso(t_ns: int) -> str:
    """Format Unix nanoseconds as RFC 3339 with nine decimals and `Z`, without rounding."""
    seconds, nanoseconds = divmod(t_ns, 1_000_000_000)
    return f"{_second_iso(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=64)
def _second_iso(unix_s: int) -> str:
    # Receipts come by the thousand in a second.
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}"
