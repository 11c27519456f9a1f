"""What others say of a checkpoint, as receipts carry it: cosignatures, timestamps, locked copies.

Evidence of every kind must name the very checkpoint that it came with (`check_named`); that needs
no trust. Who is believed is for the verifier to say, and `Outside` holds it: a policy, authorities,
and a way to ask a store. What nobody was named for is reported as not checked. What was asked for
and is not there makes a receipt unverified; what is there and does not hold is raised.

docs/formats/evidence.md draws each kind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from provledger import jcs, note, timestamp
from provledger.errors import InputError, InvalidJSONError, NoteError, VerificationError
from provledger.policy import Policy
from provledger.receipt import Evidence, Proof
from provledger.report import REQUIRED, Check, CheckResult, Finding, Outcome

FILE: Final = "file"
COSIGNATURE: Final = "tlog-cosignature"
OBJECT_LOCK: Final = "s3-object-lock"
_LOCK_MEMBERS: Final = frozenset(
    "bucket key legalHold mode retainUntilUnixS sha256 size v versionId".split()
)
_LOCK_MODE: Final = "COMPLIANCE"
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LAST_UNIX_S: Final = 253_402_300_799
"""The end of the year 9999, after which no calendar of ours goes on."""
_MAX_SIZE: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """Evidence of kind `s3-object-lock`: where a copy is, and until when it is locked."""

    bucket: str
    key: str
    version_id: str
    mode: str
    retain_until_unix_s: int
    legal_hold: bool
    sha256: str
    size: int


AskStore = Callable[[ObjectLock, bytes], None]
"""Asks the store for the copy, given the signed checkpoint that it must be; raises
VerificationError if it is not there, not the same, or not locked."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Whom a verifier believes outside of the operator's reach; empty for nobody."""

    policy: Policy | None = None
    authorities: tuple[timestamp.Authority, ...] = ()
    ask_store: AskStore | None = None

    @property
    def required(self) -> frozenset[Check]:
        """The checks without which a receipt is unverified."""
        if self is NOBODY:
            return REQUIRED
        asked = set(REQUIRED)
        if self.policy is not None:
            asked.add(Check.COSIGNER_QUORUM)
        if self.authorities:
            asked.add(Check.TIMESTAMP_TOKEN)
        if self.ask_store is not None:
            asked.add(Check.OBJECT_LOCK)
        return frozenset(asked)

    def check(self, proofs: Sequence[Proof]) -> list[CheckResult]:
        """The three checks, on proofs whose evidence names their checkpoints.

        Raises:
            VerificationError: something is there, and does not hold.
        """
        times: list[datetime] = []
        strange: list[VerificationError] = []
        quorums = []
        for proof in proofs:
            stamps = self._stamps(proof, strange)
            times += [stamp.time for _, stamp in stamps]
            if self.policy is not None:
                quorums.append(_quorum(self.policy, proof, stamps))
        if strange and not times:
            raise strange[0]
        return [
            self._quorum_result(quorums),
            self._stamp_result(proofs, times, strange),
            self._lock_result(proofs),
        ]

    def _quorum_result(self, quorums: Sequence[tuple[bool, str]]) -> CheckResult:
        check = Check.COSIGNER_QUORUM
        if self.policy is None:
            return CheckResult(check, Outcome.NOT_CHECKED, "no cosigner policy was given")
        for met, members in quorums:
            if met:
                return CheckResult(check, Outcome.HOLDS, members or "the policy asks for nobody")
        found = "; ".join(members for _, members in quorums) or "nobody"
        return CheckResult(check, Outcome.NOT_CHECKED, f"not met: it has {found}")

    def _stamps(
        self, proof: Proof, strange: list[VerificationError]
    ) -> list[tuple[str, timestamp.Stamp]]:
        """The tokens that verify, each with the sink that it is said to be of.

        What is wrong with the others goes to `strange`. A log may be stamped by more authorities
        than a verifier believes, as it may be cosigned by keys that no policy names: such tokens
        count for nothing, beside one that verifies, and are named.
        """
        stamps = []
        for item in _of_kind([proof], timestamp.KIND):
            try:
                stamp = timestamp.check_evidence(
                    item.evidence, proof.checkpoint, proof.origin, self.authorities
                )
            except (VerificationError, InputError) as error:
                strange.append(_failed(str(error), Check.TIMESTAMP_TOKEN))
                continue
            if stamp is not None:
                stamps.append((item.sink, stamp))
        return stamps

    def _stamp_result(
        self,
        proofs: Sequence[Proof],
        times: Sequence[datetime],
        strange: Sequence[VerificationError],
    ) -> CheckResult:
        check = Check.TIMESTAMP_TOKEN
        if times:
            earliest = min(times).astimezone(UTC)
            detail = f"there by {earliest:%Y-%m-%dT%H:%M:%SZ}"
            if strange:
                # It may be another authority's, or damaged: from here, nobody can tell.
                others = "another token does" if len(strange) == 1 else f"{len(strange)} others do"
                detail += f"; {others} not count: {strange[0].message}"
            return CheckResult(check, Outcome.HOLDS, detail, passed_over=bool(strange))
        if _of_kind(proofs, timestamp.KIND):
            return CheckResult(check, Outcome.NOT_CHECKED, "no authority to believe was given")
        return CheckResult(check, Outcome.NOT_CHECKED, "the receipt carries none")

    def _lock_result(self, proofs: Sequence[Proof]) -> CheckResult:
        check = Check.OBJECT_LOCK
        found = [
            (parse_object_lock(item.evidence), proof)
            for proof in proofs
            for item in _of_kind([proof], OBJECT_LOCK)
        ]
        if not found:
            return CheckResult(check, Outcome.NOT_CHECKED, "the receipt carries none")
        until_s = max(lock.retain_until_unix_s for lock, _ in found)
        until = f"locked until {datetime.fromtimestamp(until_s, tz=UTC):%Y-%m-%d}"
        if self.ask_store is None:
            return CheckResult(check, Outcome.NOT_CHECKED, f"{until}, it says, unasked")
        for lock, proof in found:
            self.ask_store(lock, proof.checkpoint)
        return CheckResult(check, Outcome.HOLDS, f"{until}, says the store")


NOBODY: Final = Outside()


def check_named(proof: Proof, size: int, item: Evidence) -> bool:
    """Check that evidence names the checkpoint of its proof; False for a kind not known here.

    Raises:
        VerificationError: it names another one.
    """
    if item.kind == FILE:
        named = item.evidence == _file_evidence(proof, size, item.evidence)
    elif item.kind == COSIGNATURE:
        try:
            named = note.parse(item.evidence).text == note.parse(proof.checkpoint).text
        except NoteError:
            named = False
    elif item.kind == OBJECT_LOCK:
        lock = parse_object_lock(item.evidence)
        digest = hashlib.sha256(proof.checkpoint).hexdigest()
        named = (lock.sha256, lock.size) == (digest, size)
    elif item.kind == timestamp.KIND:
        try:
            timestamp.check_evidence(item.evidence, proof.checkpoint, proof.origin, ())
            named = True
        except (VerificationError, InputError):
            named = False
    else:
        return False
    if not named:
        raise VerificationError(
            "a sink's evidence names another checkpoint",
            check=Check.SINK_EVIDENCE,
            finding=Finding.PROOF_INVALID,
        )
    return True


def _file_evidence(proof: Proof, size: int, given: bytes) -> bytes:
    """Evidence of kind `file` for a checkpoint, with the commit that the given one names, if any.

    Where the directory is a git repository, the sink adds it: it tells where to look, and is the
    operator's word like the rest.
    """
    value = {
        "name": f"{quote(proof.origin, safe='')}/{size:020}.checkpoint",
        "sha256": hashlib.sha256(proof.checkpoint).hexdigest(),
        "size": str(size),
    }
    try:
        stated: Any = jcs.parse(given)
    except InvalidJSONError:
        stated = None
    commit = stated.get("commit") if isinstance(stated, dict) else None
    if isinstance(commit, str) and _COMMIT.fullmatch(commit):
        value["commit"] = commit
    return jcs.encode(value)


def parse_object_lock(data: bytes) -> ObjectLock:
    """Read evidence of kind `s3-object-lock`; raises VerificationError."""
    try:
        value: Any = jcs.parse(data)
    except InvalidJSONError as error:
        raise _failed("object lock evidence cannot be read", Check.OBJECT_LOCK) from error
    if not isinstance(value, dict) or value.keys() != _LOCK_MEMBERS or value["v"] != "1":
        raise _failed("object lock evidence has other members", Check.OBJECT_LOCK)
    texts = [value[name] for name in ("bucket", "key", "versionId", "sha256")]
    if jcs.encode(value) != data or not all(isinstance(text, str) for text in texts):
        raise _failed("object lock evidence is not canonical", Check.OBJECT_LOCK)
    if value["mode"] != _LOCK_MODE:
        raise _failed("object lock evidence is of a lock that can be lifted", Check.OBJECT_LOCK)
    if type(value["legalHold"]) is not bool:
        raise _failed("legalHold is neither true nor false", Check.OBJECT_LOCK)
    return ObjectLock(
        bucket=value["bucket"],
        key=value["key"],
        version_id=value["versionId"],
        mode=value["mode"],
        retain_until_unix_s=_decimal(value, "retainUntilUnixS", _LAST_UNIX_S),
        legal_hold=value["legalHold"],
        sha256=value["sha256"],
        size=_decimal(value, "size", _MAX_SIZE),
    )


def _decimal(value: dict[str, Any], name: str, most: int) -> int:
    text = value[name]
    # int() would also take signs, spaces, underscores, other scripts' digits and numbers.
    if type(text) is not str or not _DECIMAL.fullmatch(text) or int(text) > most:
        raise _failed(f"{name} is not a decimal number up to {most}", Check.OBJECT_LOCK)
    return int(text)


def cosigned_checkpoint(proof: Proof) -> bytes:
    """The checkpoint with the lines of all cosigners in the evidence behind its own, each once."""
    parsed = note.parse(proof.checkpoint)
    lines = {(line.name, line.note_key_id): line for line in parsed.signatures}
    for item in _of_kind([proof], COSIGNATURE):
        cosigned = note.parse(item.evidence)
        if cosigned.text == parsed.text:
            for line in cosigned.signatures:
                lines.setdefault((line.name, line.note_key_id), line)
    encoded = [
        note.signature_line(line.name, line.note_key_id, line.signature) for line in lines.values()
    ]
    return note.format_note(parsed.text, encoded[: note.MAX_SIGNATURES])


def _quorum(
    policy: Policy, proof: Proof, stamps: Sequence[tuple[str, timestamp.Stamp]]
) -> tuple[bool, str]:
    """Whether a policy is met by what can be checked of a proof, and by whom."""
    members: set[str] = set()
    try:
        if policy.logs:
            keys = policy.log_keys(proof.origin)
            if not keys:
                return False, f"no log {proof.origin}"
            note.open(proof.checkpoint, keys)
        for signed in [proof.checkpoint, *(e.evidence for e in _of_kind([proof], COSIGNATURE))]:
            members.update(policy.cosigned_by(signed))
    except NoteError as error:
        raise _failed(str(error), Check.COSIGNER_QUORUM, Finding.SIGNATURE_CHANGED) from error
    members |= _stamped_sinks(policy, stamps)
    return policy.met_by(members), ", ".join(sorted(members))


def _stamped_sinks(policy: Policy, stamps: Sequence[tuple[str, timestamp.Stamp]]) -> set[str]:
    """The sinks of a policy that tokens meet, by name.

    A sink counts by what can be checked here; a file or a bucket is the operator's word. So is the
    sink that a token is said to be of, and a copy of it under another name costs nothing: each
    authority counts for one sink only, the first that the quorum asks for.
    """
    asked = policy.required()
    names = {uri: name for name, uri in policy.sinks.items() if name in asked}
    met: dict[bytes, str] = {}
    for uri, stamp in stamps:
        name = names.get(uri)
        if name is not None and name not in met.values():
            met.setdefault(stamp.authority.public_key, name)
    return set(met.values())


def _of_kind(proofs: Sequence[Proof], kind: str) -> list[Evidence]:
    return [item for proof in proofs for item in proof.evidence if item.kind == kind]


def _failed(
    message: str, check: Check, finding: Finding = Finding.PROOF_INVALID
) -> VerificationError:
    return VerificationError(message, check=check, finding=finding)
