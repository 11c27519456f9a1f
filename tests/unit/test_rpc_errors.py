"""Exceptions to rich statuses and back, without a socket."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from provledger import errors
from provledger.errors import STATUS_ERRORS, FieldViolation, StatusError
from provledger.kms import errors as kms_errors
from provledger.rpc.errors import (
    CODES,
    DETAILS_KEY,
    MAX_STATUS_BYTES,
    as_status_error,
    from_rpc_error,
    from_status,
    naming,
    status_from_pb,
    status_to_pb,
    to_status,
)


class FakeCall(grpc.RpcError):
    """A failed call as gRPC's exceptions present themselves, blocking and asyncio alike."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> None:
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def detail(status: status_pb2.Status, message: Any) -> Any:
    found = [packed for packed in status.details if packed.Unpack(message)]
    assert len(found) == 1
    return message


@pytest.mark.parametrize("kind", STATUS_ERRORS.values())
def test_every_typed_error_survives_the_round_trip(kind: type[StatusError]) -> None:
    error = kind(
        "SOME_REASON",
        "what happened",
        metadata={"size": "5"},
        violations=[FieldViolation("a.b[2].c", "bad", "TOO_LONG")],
        retry_delay_s=0.25,
    )
    rebuilt = status_from_pb(status_to_pb(error))
    assert type(rebuilt) is kind
    assert vars(rebuilt) == {**vars(error), "remote": True}


def test_every_error_has_exactly_one_error_info_of_our_domain() -> None:
    for exc in (errors.NotFoundError("NO_LEDGER", "none"), ValueError("x"), errors.PatchError("p")):
        info = detail(to_status(exc), error_details_pb2.ErrorInfo())
        assert info.domain == "provledger"
        assert info.reason == info.reason.upper()


def test_error_without_violations_or_delay_has_no_such_details() -> None:
    assert len(to_status(errors.NotFoundError("X", "x")).details) == 1


@pytest.mark.parametrize(
    ("exc", "code", "reason"),
    [
        (errors.InvalidJSONError("bad", "/a"), "INVALID_ARGUMENT", "INVALID_JSON"),
        (errors.PatchError("bad", index=2, pointer="/b"), "INVALID_ARGUMENT", "INVALID_PATCH"),
        (errors.CheckpointError("bad"), "INVALID_ARGUMENT", "INVALID_CHECKPOINT"),
        (errors.NoteError("bad"), "INVALID_ARGUMENT", "INVALID_NOTE"),
        (errors.IdentifierError("tenant", "bad"), "INVALID_ARGUMENT", "INVALID_IDENTIFIER"),
        (errors.ReceiptFormatError("seq", "bad"), "INVALID_ARGUMENT", "INVALID_RECEIPT"),
        (errors.InputError("bad"), "INVALID_ARGUMENT", "INVALID_INPUT"),
        (errors.InvalidProofError("bad"), "DATA_LOSS", "INVALID_PROOF"),
        (errors.VerificationError("bad"), "DATA_LOSS", "VERIFICATION_FAILED"),
        (errors.KMSError("bad"), "UNAVAILABLE", "KMS_ERROR"),
        (kms_errors.KMSKeyDisabledError("k"), "FAILED_PRECONDITION", "KMS_KEY_DISABLED"),
        (kms_errors.KMSIntegrityError("k"), "INTERNAL", "KMS_INTEGRITY"),
        (RuntimeError("secret"), "INTERNAL", "INTERNAL"),
        (errors.ProvledgerError("root"), "INTERNAL", "INTERNAL"),
    ],
)
def test_other_families_have_one_table(exc: Exception, code: str, reason: str) -> None:
    error = as_status_error(exc)
    assert (error.code, error.reason) == (code, reason)


def test_field_of_the_request_goes_in_front_of_the_field_of_the_error() -> None:
    error = as_status_error(errors.IdentifierError("actor.id", "too long"), field="items[3]")
    assert error.violations == (
        FieldViolation("items[3].actor.id", "too long", "INVALID_IDENTIFIER"),
    )
    plain = as_status_error(errors.InvalidJSONError("duplicate", "/a/b"), field="items[3].payload")
    assert plain.violations[0].field == "items[3].payload"
    assert plain.metadata == {"pointer": "/a/b"}
    assert as_status_error(errors.InvalidJSONError("duplicate", "/a/b")).violations == ()


def test_kms_delay_becomes_retry_info() -> None:
    status = to_status(kms_errors.KMSThrottledError("slow", retry_delay_s=2.5))
    retry = detail(status, error_details_pb2.RetryInfo())
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5


@given(
    message=st.text(st.characters()) | st.just("\udfff"),
    violations=st.lists(
        st.builds(FieldViolation, st.text(max_size=300), st.text(max_size=600), st.text()),
        max_size=60,
    ),
    metadata=st.dictionaries(st.text(min_size=1), st.text(max_size=900), max_size=40),
)
def test_status_always_fits_into_headers(
    message: str, violations: list[FieldViolation], metadata: dict[str, str]
) -> None:
    error = errors.InvalidArgumentError(
        "BAD", message * 5, metadata=metadata, violations=violations, retry_delay_s=1.0
    )
    status = to_status(error)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    rebuilt = from_status(status)
    shown = [v for v in rebuilt.violations if v.reason != "VIOLATIONS_TRUNCATED"]
    hidden = len(violations) - len(shown)
    assert (rebuilt.violations[len(shown) :] != ()) == (hidden > 0)
    if hidden:
        assert rebuilt.violations[-1].description == f"and {hidden} more, not shown"


def test_gateway_errors_of_grpc_itself_take_the_code_as_reason() -> None:
    for code in grpc.StatusCode:
        error = from_rpc_error(FakeCall(code, "text"))
        if code is grpc.StatusCode.CANCELLED:
            assert (error.code, error.reason) == ("UNAVAILABLE", "PEER_CANCELLED")
        else:
            assert error.reason == code.name
            assert error.code in (code.name, "INTERNAL")


def test_peer_that_is_away_is_named_and_its_address_is_not() -> None:
    details = "failed to connect to all addresses; last error: ipv4:10.1.2.3:7002: refused"
    away = from_rpc_error(FakeCall(grpc.StatusCode.UNAVAILABLE, details))
    named = naming(away, "WITNESS_UNAVAILABLE", "the witness service")
    assert (named.code, named.reason) == ("UNAVAILABLE", "WITNESS_UNAVAILABLE")
    assert named.message == "the witness service does not answer"
    assert named.retry_delay_s == 0.5


@pytest.mark.parametrize(
    "said",
    [
        errors.UnavailableError("NO_ACTIVE_KEY", "there is none"),
        errors.InvalidArgumentError("UNAVAILABLE", "of another code"),
        from_rpc_error(FakeCall(grpc.StatusCode.CANCELLED, "going down")),
    ],
)
def test_what_the_peer_says_itself_stays(said: StatusError) -> None:
    assert naming(said, "WITNESS_UNAVAILABLE", "the witness service") is said


@pytest.mark.parametrize("side", ["SERVER: Received", "CLIENT: Sent", "CLIENT: Received"])
def test_too_large_messages_are_told_from_exhaustion(side: str) -> None:
    exc = FakeCall(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{side} message larger than max (9 vs. 8)")
    assert from_rpc_error(exc).reason == "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize(
    "trailer",
    [
        b"\xff\xff",
        status_pb2.Status(code=7, message="another code").SerializeToString(),
        b"",
    ],
)
def test_unreadable_or_contradicting_details_are_ignored(trailer: bytes) -> None:
    error = from_rpc_error(FakeCall(CODES["NOT_FOUND"], "gone", [(DETAILS_KEY, trailer)]))
    assert (type(error), error.reason, error.message) == (errors.NotFoundError, "NOT_FOUND", "gone")


def test_damaged_and_foreign_details_are_skipped() -> None:
    status = status_pb2.Status(code=5, message="gone")
    status.details.append(
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    )
    foreign = any_pb2.Any()
    foreign.Pack(error_details_pb2.ErrorInfo(reason="THEIRS", domain="elsewhere"))
    status.details.append(foreign)
    assert from_status(status).reason == "NOT_FOUND"
