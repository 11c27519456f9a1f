"""What a verification says: every check by name, what was not checked, what was found.

The words here are part of the interface: commands print them and scripts compare them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """The checks, in the order in which they are made."""

    FORMAT = "format"
    STATEMENT = "statement"
    COMMITMENT = "commitment"
    WITNESS_SIGNATURE = "witness_signature"
    KEY_VALIDITY = "key_validity"
    ENTRY = "entry"
    TIMESTAMP = "timestamp"
    CHAIN = "chain"
    INCLUSION = "inclusion"
    CHECKPOINT_SIGNATURE = "checkpoint_signature"
    CONSISTENCY = "consistency"
    COSIGNER_QUORUM = "cosigner_quorum"
    TIMESTAMP_TOKEN = "timestamp_token"
    OBJECT_LOCK = "object_lock"
    SINK_EVIDENCE = "sink_evidence"
    HEAD = "head"
    TRUNCATION = "truncation"
    FILE_DIGEST = "file_digest"
    KEY_LEDGER = "key_ledger"


class Outcome(StrEnum):
    """How a check came out. One that does not hold is raised, never reported."""

    HOLDS = "holds"
    NOT_CHECKED = "not_checked"


class Status(StrEnum):
    """What the checks add up to."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


class Finding(StrEnum):
    """The kinds of tampering that are told apart."""

    FORMAT = "format"
    PAYLOAD_CHANGED = "payload_changed"
    STATEMENT_CHANGED = "statement_changed"
    TIMESTAMP_CHANGED = "timestamp_changed"
    SIGNATURE_CHANGED = "signature_changed"
    HASH_CHANGED = "hash_changed"
    REORDERED = "reordered"
    DELETED = "deleted"
    TRUNCATED = "truncated"
    INSERTED = "inserted"
    FOREIGN_LEDGER = "foreign_ledger"
    KEY_NOT_VALID = "key_not_valid"
    CAME_LATER = "came_later"
    NEVER_LOGGED = "never_logged"
    NOT_PLACED = "not_placed"
    PROOF_INVALID = "proof_invalid"
    HEAD_NOT_EXTENDING = "head_not_extending"
    FILE_CHANGED = "file_changed"


REQUIRED = frozenset(
    {
        Check.STATEMENT,
        Check.COMMITMENT,
        Check.WITNESS_SIGNATURE,
        Check.KEY_VALIDITY,
        Check.ENTRY,
        Check.TIMESTAMP,
        Check.INCLUSION,
        Check.CHECKPOINT_SIGNATURE,
    }
)
"""Without every one of these a receipt is unverified, whatever else holds."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check and how it came out; `detail` says against what, or why it was not made.

    passed_over: something beside what holds does not, and counts for nothing; `detail` names it.
    """

    check: Check
    outcome: Outcome
    detail: str = ""
    passed_over: bool = False

    def is_weaker_than(self, other: CheckResult) -> bool:
        """Whether it is the one to show of two of the same check: it says less, or names more."""
        if self.outcome is other.outcome:
            return self.passed_over and not other.passed_over
        return self.outcome is Outcome.NOT_CHECKED


@dataclass(frozen=True, slots=True)
class Report:
    """The checks made on one receipt."""

    receipt: str
    results: tuple[CheckResult, ...]
    required: frozenset[Check] = REQUIRED

    @property
    def status(self) -> Status:
        """`verified` only if every required check was made and holds."""
        return status_of(self.results, self.required)


def status_of(results: tuple[CheckResult, ...], required: frozenset[Check] = REQUIRED) -> Status:
    """Add up results: `verified` only if every required check holds."""
    held = {result.check for result in results if result.outcome is Outcome.HOLDS}
    return Status.VERIFIED if held >= required else Status.UNVERIFIED
