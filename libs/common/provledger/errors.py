"""Every error this project raises on purpose, in one tree.

Two families hang from one root::

    ProvledgerError
    ├── InputError                      what was given cannot be used
    │   ├── InvalidJSONError            strict JSON (RFC 8259, RFC 7493, RFC 8785)
    │   ├── PatchError                  JSON Pointer and JSON Patch (RFC 6901, RFC 6902)
    │   │   └── PatchLimitError         a JSON Patch that would be too much work
    │   ├── NoteError                   c2sp.org/signed-note
    │   │   └── CheckpointError         c2sp.org/tlog-checkpoint
    │   ├── TileError                   c2sp.org/tlog-tiles
    │   ├── PolicyError                 c2sp.org/tlog-policy
    │   ├── TlogProofError              c2sp.org/tlog-proof
    │   ├── CoseReceiptError            COSE receipts (RFC 9942)
    │   ├── EnvelopeError               DSSE
    │   ├── IdentifierError             names and ids of ours
    │   ├── ReceiptFormatError          a receipt, statement or export that cannot be read
    │   └── KeyFormatError              a JWK, JWKS or key id that cannot be read
    ├── VerificationError               a check was made and does not hold
    │   ├── InvalidProofError           Merkle inclusion and consistency (RFC 9162)
    │   ├── InvalidSignatureError       a signature that does not verify
    │   ├── UnknownKeyError             a signature by a key that is not in the given set
    │   ├── UnknownEventError           a key event of a later version
    │   ├── NoKeyLedgerError            nothing is there that a pin could say something of
    │   ├── KeyLedgerTooLargeError      a key ledger that is more than this version reads
    │   ├── LogDamagedError             a file of a log that does not fit the rest of it
    │   └── SplitViewError              two heads that one log signed, of two histories
    ├── MissingExtraError               nothing was checked: a part of ours is not installed
    ├── KMSError                        see `provledger.kms.errors`
    └── StatusError                     crosses gRPC (AIP-193) and is rebuilt on the caller's side

A failed check raises; nothing here is ever returned in place of an exception.
Messages name fields and say what to do; they never carry payloads, salts or secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class ProvledgerError(Exception):
    """Root of all errors raised on purpose by this project.

    `request_ids` is set by the appends of `provledger.client`: those of the drafts that were not
    answered, in their order. They may be recorded; sent again under these, none is recorded twice.
    """

    request_ids: tuple[str, ...] = ()


class InputError(ProvledgerError):
    """Something given to us cannot be used as it is."""


class InvalidJSONError(InputError):
    """Bytes that are not the strict JSON we accept.

    `pointer` is the RFC 6901 pointer of the offending value, "" for the whole document.
    """

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(f"{message} at {pointer!r}" if pointer else message)
        self.message = message
        self.pointer = pointer


class PatchError(InputError):
    """A JSON Pointer or JSON Patch that is malformed or does not apply.

    `index` is the zero-based operation, `pointer` the path it was about (both may be unknown).
    """

    def __init__(
        self, message: str, *, index: int | None = None, pointer: str | None = None
    ) -> None:
        super().__init__(message if index is None else f"operation {index}: {message}")
        self.index = index
        self.pointer = pointer


class PatchLimitError(PatchError):
    """A JSON Patch that would be more work than its limits allow, right or not."""


class NoteError(InputError):
    """A signed note or verifier key that is malformed, or that no trusted key signed."""


class CheckpointError(NoteError):
    """A checkpoint body that breaks c2sp.org/tlog-checkpoint."""


class TileError(InputError):
    """Tile coordinates or contents that break c2sp.org/tlog-tiles."""


class PolicyError(InputError):
    """A trust policy that cannot be read; `line` is counted from 1, 0 for the policy as a whole."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"policy, line {line}: {message}" if line else f"policy: {message}")
        self.line = line
        self.message = message


class TlogProofError(InputError):
    """A proof bundle that breaks c2sp.org/tlog-proof."""


class CoseReceiptError(InputError):
    """A COSE receipt that breaks RFC 9942, or is not in its one encoding."""


class EnvelopeError(InputError):
    """A DSSE envelope that cannot be read."""


class IdentifierError(InputError):
    """A name, id or label that breaks our rules; `field` says which one."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ReceiptFormatError(InputError):
    """A receipt, statement, commitment or export that cannot be read; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class KeyFormatError(InputError):
    """A JWK, JWKS or key parameter that cannot be read."""


class VerificationError(ProvledgerError):
    """A check was made and does not hold.

    `check` is its name and `finding` the kind of tampering it points to (both listed in
    `provledger.report`); `receipt` names the first broken receipt and `line` its place in an
    export, counted from 1, where these are known.
    """

    def __init__(
        self,
        message: str,
        *,
        check: str = "",
        finding: str = "",
        receipt: str = "",
        line: int | None = None,
    ) -> None:
        super().__init__(f"{check}: {message}" if check else message)
        self.check = check
        self.message = message
        self.finding = finding
        self.receipt = receipt
        self.line = line


class InvalidProofError(VerificationError):
    """A Merkle inclusion or consistency proof that does not verify (RFC 9162 §2.1.3, §2.1.4)."""


class InvalidSignatureError(VerificationError):
    """A signature that does not verify under the key it names."""


class UnknownKeyError(VerificationError):
    """A signature by a key that the given set does not have, so that nothing was verified.

    A set from before the key was made is the likely reason, a forger's key the other one.
    """


class NoKeyLedgerError(VerificationError):
    """An export carries no key ledger, so that a pin says nothing of it; other keys may."""


class KeyLedgerTooLargeError(VerificationError):
    """A key ledger beyond what this version reads, so that nothing of it was verified."""


class UnknownEventError(VerificationError):
    """A key event of a type that this version does not know, which may say anything of the keys."""


class LogDamagedError(VerificationError):
    """A tile, bundle, checkpoint or entry of a log that does not fit the rest of it.

    `path` is the file below the log's prefix, "" where it is none; `log_index` the first entry that
    is known to be wrong, None where no single one is. `log` is the log's name, set by whoever has
    several to check.
    """

    def __init__(
        self, message: str, *, check: str, path: str = "", log_index: int | None = None
    ) -> None:
        super().__init__(message, check=check)
        self.path = path
        self.log_index = log_index
        self.log = ""


class SplitViewError(VerificationError):
    """A log signed two heads that are not of one history.

    `evidence` proves it to whoever has the log's public key (`provledger.split_view`).
    """

    def __init__(self, message: str, *, evidence: bytes) -> None:
        super().__init__(message, check="split_view")
        self.evidence = evidence


class MissingExtraError(ProvledgerError):
    """Something that was asked for needs an extra of the package that is not installed.

    Neither input nor an answer: what it was asked of may be as good as any.
    """


class KMSError(ProvledgerError):
    """A key management service could not do what was asked (`provledger.kms.errors`)."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request (google.rpc.BadRequest): path like `items[3].actor.id`."""

    field: str
    description: str
    reason: str = ""


class StatusError(ProvledgerError):
    """An error with a gRPC code and AIP-193 details; one subclass for each code we answer with.

    `reason` is UPPER_SNAKE_CASE and, with the domain "provledger", part of the API.
    `metadata` repeats everything variable in the message. `retry_delay_s` becomes RetryInfo.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_delay_s = retry_delay_s


class InvalidArgumentError(StatusError):
    """The request is wrong in itself; the violations name the fields."""

    code = "INVALID_ARGUMENT"


class OutOfRangeError(StatusError):
    """A position beyond the end of a log or ledger."""

    code = "OUT_OF_RANGE"


class UnauthenticatedError(StatusError):
    """No acceptable credentials were presented."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(StatusError):
    """The caller may not do this; checked before existence."""

    code = "PERMISSION_DENIED"


class NotFoundError(StatusError):
    """No such tenant, ledger, receipt, log or key."""

    code = "NOT_FOUND"


class AlreadyExistsError(StatusError):
    """The name is taken, or the request id was used for other content."""

    code = "ALREADY_EXISTS"


class AbortedError(StatusError):
    """A concurrent writer got there first; read again and retry."""

    code = "ABORTED"


class FailedPreconditionError(StatusError):
    """The system is not in a state that allows this; retrying alone does not help."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(StatusError):
    """A queue, quota or provider limit is full; `retry_delay_s` says when to come back."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(StatusError):
    """Something needed is away for now; safe to retry with the same request id."""

    code = "UNAVAILABLE"


class DeadlineExceededError(StatusError):
    """The answer did not come in time; whether it happened is unknown until retried."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(StatusError):
    """The call was cancelled by its caller or by a server that shuts down."""

    code = "CANCELLED"


class DataLossError(StatusError):
    """Stored bytes fail their own hashes. Page someone."""

    code = "DATA_LOSS"


class UnimplementedError(StatusError):
    """The method or option is not offered by this build or configuration."""

    code = "UNIMPLEMENTED"


class InternalError(StatusError):
    """A fault of ours; details are in the server's log only."""

    code = "INTERNAL"


STATUS_ERRORS: Mapping[str, type[StatusError]] = {
    error.code: error
    for error in (
        InvalidArgumentError,
        OutOfRangeError,
        UnauthenticatedError,
        PermissionDeniedError,
        NotFoundError,
        AlreadyExistsError,
        AbortedError,
        FailedPreconditionError,
        ResourceExhaustedError,
        UnavailableError,
        DeadlineExceededError,
        CancelledError,
        DataLossError,
        UnimplementedError,
        InternalError,
    )
}
