"""Every reason that an error of ours can carry: its gRPC codes, what it means, what to do.

The reason and the domain "provledger" are part of the API (AIP-193). docs/formats/errors.md is made
from this table; `reasons_in_code` finds what the code really uses, and a test compares the two, so
that no reason appears or goes without a word here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.doc_blocks import REPO

ROOTS = ("libs/common/provledger", "services")

_REASON_RE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_ERROR_CODES = {
    "InvalidArgumentError": "INVALID_ARGUMENT",
    "OutOfRangeError": "OUT_OF_RANGE",
    "UnauthenticatedError": "UNAUTHENTICATED",
    "PermissionDeniedError": "PERMISSION_DENIED",
    "NotFoundError": "NOT_FOUND",
    "AlreadyExistsError": "ALREADY_EXISTS",
    "AbortedError": "ABORTED",
    "FailedPreconditionError": "FAILED_PRECONDITION",
    "ResourceExhaustedError": "RESOURCE_EXHAUSTED",
    "UnavailableError": "UNAVAILABLE",
    "DeadlineExceededError": "DEADLINE_EXCEEDED",
    "CancelledError": "CANCELLED",
    "DataLossError": "DATA_LOSS",
    "UnimplementedError": "UNIMPLEMENTED",
    "InternalError": "INTERNAL",
}

NOT_REASONS = frozenset(_ERROR_CODES.values()) | frozenset(
    # Words of protocols and of other libraries that are written in capitals.
    "UNKNOWN BEGIN CREATE UPDATE DELETE ED25519 ECDSA ES256 GOAWAY RST_STREAM SECONDS XX001 XX002 "
    "CLOCK_BOOTTIME XDG_DATA_HOME HOME PATH FILE SERVING NOT_SERVING SERVICE_UNKNOWN HMAC BLAKE3 "
    "NAME NONE PKCS11 GRPC_VERBOSITY OPENSSL_CONF OPENSSL_MODULES POST SHA256 COMPLIANCE "
    "AUTOCOMMIT ES384 HEAD OPTIONS LC_ALL UTF8 SQL_ASCII".split()
)
"""Texts in capitals that are no reasons. Names of environment variables are left out by prefix."""

CODES_WITHOUT_REASON = (
    "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNIMPLEMENTED",
)  # fmt: skip
"""Codes that also occur as reasons: where gRPC itself answered, its code is all there is."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; `group` is the section of the page it stands in."""

    group: str
    codes: tuple[str, ...]
    means: str
    do: str


def reasons_in_code() -> dict[str, set[str]]:
    """Every text in capitals that may be a reason, with the codes it is raised with, if visible."""
    found: dict[str, set[str]] = {}
    for root in ROOTS:
        for path in sorted((REPO / root).rglob("*.py")):
            if "api" in path.relative_to(REPO / root).parts or "migrations" in path.parts:
                continue
            for reason, code in _reasons_of(ast.parse(path.read_text("utf-8"))):
                codes = found.setdefault(reason, set())
                if code:
                    codes.add(code)
    return found


def _reasons_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    exported = {
        id(node)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Assign)
        and any(isinstance(to, ast.Name) and to.id == "__all__" for to in statement.targets)
        for node in ast.walk(statement)
    }
    constants = dict(_constants(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in _ERROR_CODES and node.args:
                reason = _text(node.args[0], constants)
                if reason:
                    yield reason, _ERROR_CODES[name]
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and id(node) not in exported and _is_reason(value):
            yield value, ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in tree.body:
        target: ast.expr | None = None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if isinstance(target, ast.Name) and isinstance(statement, ast.AnnAssign | ast.Assign):
            value = statement.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield target.id, value.value


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    value = constants.get(node.id) if isinstance(node, ast.Name) else None
    if isinstance(node, ast.Constant):
        value = node.value if isinstance(node.value, str) else None
    return value if value is not None and _REASON_RE.fullmatch(value) else ""


def _is_reason(value: str) -> bool:
    return (
        len(value) > 3
        and _REASON_RE.fullmatch(value) is not None
        and value not in NOT_REASONS
        and not value.startswith(
            ("PROVLEDGER_", "AUDIT_", "AWS_", "OTEL_", "WITNESS_PRIVATE_", "SQLITE_", "PG_", "GIT_")
        )
    )


def undocumented() -> list[str]:
    """Reasons in the code that the table does not have."""
    return sorted(reasons_in_code().keys() - REASONS.keys() - NOT_REASONS)


def unused() -> list[str]:
    """Reasons in the table that the code does not have."""
    return sorted(REASONS.keys() - reasons_in_code().keys() - set(CODES_WITHOUT_REASON))


def wrong_codes() -> list[str]:
    """Reasons that the code raises with a gRPC code which the table does not give."""
    return sorted(
        f"{reason}: {', '.join(sorted(codes - set(REASONS[reason].codes)))}"
        for reason, codes in reasons_in_code().items()
        if reason in REASONS and codes - set(REASONS[reason].codes)
    )


def _load() -> dict[str, Reason]:
    """Read the table beside this module: `REASON | codes | what it means | what to do`."""
    reasons: dict[str, Reason] = {}
    group = ""
    for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line and not line.startswith("#"):
            name, codes, means, do = (part.strip() for part in line.split("|"))
            reasons[name] = Reason(group, tuple(codes.split()), means, do)
    return reasons


REASONS = _load()
