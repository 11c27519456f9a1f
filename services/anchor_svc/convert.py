"""Messages of `provledger.api.anchor.v1` to and from the service's values; all checks of form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from anchor_svc.checkpointing import LeafRun
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import DamagedLog
from anchor_svc.paging import page_token, read_page_token
from anchor_svc.publishedlogs import Lost
from anchor_svc.reader import Proof, Proven
from anchor_svc.sinkstatus import SinkStatus
from anchor_svc.state import LogIdentity, Promise, SignedCheckpoint
from anchor_svc.storage import AnchorRow, PolicyRow
from anchor_svc.submission import (
    MAX_ENTRIES,
    LedgerState,
    Submission,
    invalid,
    parse_submission,
)
from provledger import names
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.common.v1 import common_pb2
from provledger.errors import InvalidArgumentError, StatusError, TileError
from provledger.hashing import HASH_BYTES, Hasher
from provledger.policy import MAX_POLICY_BYTES
from provledger.printable import printable
from provledger.rpc.bounds import Limit, Limits, field_name
from provledger.tiles import TilePath, parse_path

MAX_SEQS: Final = 1000
MAX_KEPT: Final = 1000
MAX_SINK_BYTES: Final = 1024
MAX_ERROR_CHARS: Final = 500
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
_MAX_INT64: Final = 2**63 - 1
_ALL_LOGS: Final = "logs"

_SUITES: Final[dict[int, str]] = {
    common_pb2.SUITE_BLAKE3: "blake3",
    common_pb2.SUITE_BLAKE3_ALL: "blake3-all",
    common_pb2.SUITE_FIPS: "fips",
}
_SUITES_PB: Final = {
    "blake3": common_pb2.SUITE_BLAKE3,
    "blake3-all": common_pb2.SUITE_BLAKE3_ALL,
    "fips": common_pb2.SUITE_FIPS,
}


@dataclass(frozen=True, slots=True)
class AnchorPage:
    """What ListAnchors was asked for. `after`: place where the page begins, None at the start."""

    sink: str
    after: tuple[int, str] | None
    limit: int


def submission_from_pb(request: pb.SubmitLeavesRequest, tree: Hasher) -> Submission:
    """Read and check a submission; `tree` is the hash of the log's tree."""
    uid = ledger_uid_from_pb(request.ledger_uid)
    suite_name = suite_from_pb(request.suite)
    # Counted before they are taken out of the message: a hostile one holds millions.
    if len(request.entries) > MAX_ENTRIES:
        raise _invalid_entries()
    return parse_submission(uid, suite_name, request.start_seq, list(request.entries), tree)


def suite_from_pb(value: int) -> str:
    """Check a suite, which must be said."""
    suite_name = _SUITES.get(value)
    if suite_name is None:
        raise invalid("suite", "must be one of the known suites")
    return suite_name


def ledger_uid_from_pb(value: bytes) -> bytes:
    """Check a ledger's uid."""
    return names.check_uid(value, "ledger_uid")


def size_from_pb(value: int, field: str, *, least: int = 0) -> int:
    """Check a tree size or log index."""
    if value < least:
        raise invalid(field, f"must be at least {least}")
    return value


def seqs_from_pb(seqs: Sequence[int]) -> list[int]:
    """Check the seqs of a batch: 1 to 1,000, strictly rising."""
    if not 1 <= len(seqs) <= MAX_SEQS:
        raise _invalid_seqs()
    values = list(seqs)
    if values[0] < 0 or any(a >= b for a, b in itertools.pairwise(values)):
        raise invalid("seqs", "must not be negative, and must rise strictly")
    if values[-1] == _MAX_INT64:
        raise invalid("seqs", "must be below 2^63-1")
    return values


def kept_for_from_pb(tenants: Sequence[str]) -> list[str]:
    """Check the tenants whose places are kept: at most 1,000."""
    if len(tenants) > MAX_KEPT:
        raise _invalid_kept()
    for place, tenant in enumerate(tenants):
        names.parse_tenant_name(tenant, f"kept_for[{place}]")
    return list(tenants)


def _invalid_entries() -> InvalidArgumentError:
    return invalid("entries", f"must be 1 to {MAX_ENTRIES:,} entries")


def _invalid_seqs() -> InvalidArgumentError:
    return invalid("seqs", f"must be 1 to {MAX_SEQS:,}")


def _invalid_kept() -> InvalidArgumentError:
    return invalid("kept_for", f"must be at most {MAX_KEPT:,} tenants")


LIMITS: Final[Limits] = {
    field_name(pb.SubmitLeavesRequest, "entries"): Limit(MAX_ENTRIES, _invalid_entries),
    field_name(pb.BatchGetInclusionProofsRequest, "seqs"): Limit(MAX_SEQS, _invalid_seqs),
    field_name(pb.CreateLogRequest, "kept_for"): Limit(MAX_KEPT, _invalid_kept),
}
"""What is refused before it is parsed."""


def anchor_page_from_pb(request: pb.ListAnchorsRequest, log: LogIdentity) -> AnchorPage:
    """Read and check a listing."""
    if request.page_size < 0:
        raise invalid("page_size", "must not be negative")
    sink = names.check_text(request.sink, "sink", max_bytes=MAX_SINK_BYTES, required=False)
    after = read_page_token(request.page_token, _query(log, sink)) if request.page_token else None
    return AnchorPage(sink, after, min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE))


def anchor_page_to_pb(
    page: AnchorPage, log: LogIdentity, rows: Sequence[AnchorRow]
) -> pb.ListAnchorsResponse:
    """A page of anchors; `rows` has one more than the page if there are more."""
    shown = rows[: page.limit]
    response = pb.ListAnchorsResponse(
        anchors=[pb.Anchor(tree_size=row.size, evidence=evidence_to_pb(row)) for row in shown]
    )
    if len(rows) > page.limit:
        last = shown[-1]
        response.next_page_token = page_token((last.size, last.sink), _query(log, page.sink))
    return response


def log_page_from_pb(request: pb.ListLogsRequest) -> tuple[bytes, int]:
    """Read and check a listing of logs: (uid after which it begins, how many)."""
    if request.page_size < 0:
        raise invalid("page_size", "must not be negative")
    limit = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    if not request.page_token:
        return b"", limit
    _, uid = read_page_token(request.page_token, _ALL_LOGS)
    try:
        return bytes.fromhex(uid), limit
    except ValueError:
        raise invalid("page_token", "is not a token that ListLogs gave out") from None


def log_page_to_pb(
    shown: Sequence[pb.Log], lost: Sequence[Lost], *, more: bool
) -> pb.ListLogsResponse:
    """A page of logs; `more` if others follow. Of the lost ones, as many as may be on a page."""
    token = page_token((0, shown[-1].uid.hex()), _ALL_LOGS) if more else ""
    return pb.ListLogsResponse(
        logs=shown,
        next_page_token=token,
        lost_logs=[
            pb.LostLog(
                name=f"logs/{each.uid.hex()}",
                where=each.where,
                tree_size=each.size,
                reason=each.reason,
            )
            for each in lost[:MAX_PAGE_SIZE]
        ],
    )


def listed_to_pb(log: OpenLog | DamagedLog) -> pb.Log:
    """A log as listings have it: without keys and tenants; of a damaged one, what is wrong."""
    if isinstance(log, OpenLog):
        return log_to_pb(
            log.identity,
            tenant=log.tenant,
            size=log.state.signed_size,
            published=log.state.published_size,
            promise=log.state.promise(),
            held=log.state.held,
        )
    identity = LogIdentity(log.row.log_uid, log.row.origin, log.row.suite)
    return pb.Log(
        name=identity.name,
        uid=identity.uid,
        origin=identity.origin,
        # Its row may be what is damaged.
        suite=_SUITES_PB.get(identity.suite, common_pb2.SUITE_UNSPECIFIED),
        state=pb.LOG_STATE_DAMAGED,
        damage=pb.LogDamage(
            tenant=log.row.alias,
            reason=log.error.reason,
            message=log.error.message,
            tile=log.error.metadata.get("tile", ""),
        ),
        tenant=log.row.tenant,
    )


def tile_from_pb(request: pb.GetTileRequest) -> tuple[TilePath, int, int]:
    """Read and check what piece is wanted: (tile, offset, most bytes)."""
    try:
        tile = parse_path(request.path)
    except TileError as error:
        raise invalid("path", str(error)) from error
    if request.max_bytes < 0:
        raise invalid("max_bytes", "must not be negative")
    return tile, size_from_pb(request.offset, "offset"), request.max_bytes


def log_to_pb(
    log: LogIdentity,
    *,
    tenant: str,
    vkey: str = "",
    thumbprint: bytes = b"",
    size: int,
    published: int,
    promise: Promise,
    held: StatusError | None,
    tenants: Sequence[Promise] = (),
) -> pb.Log:
    """A log, with its sizes as of one moment. tenant: whose own it is, "" for the shared one."""
    return pb.Log(
        name=log.name,
        uid=log.uid,
        origin=log.origin,
        suite=_SUITES_PB[log.suite],
        vkey=vkey,
        key_thumbprint=thumbprint,
        tree_size=size,
        published_size=published,
        anchored_size=promise.anchored_size,
        policy=promise_to_pb(promise),
        state=pb.LOG_STATE_SERVING,
        held=held_to_pb(held),
        tenants=[
            pb.TenantPromise(
                tenant=own.tenant, anchored_size=own.anchored_size, policy=promise_to_pb(own)
            )
            for own in tenants
        ],
        tenant=tenant,
    )


def held_to_pb(held: StatusError | None) -> str:
    """Why a log is held, in words; "" for one that is not."""
    return "" if held is None else held.message


def promise_to_pb(promise: Promise) -> pb.AnchorPolicy | None:
    """What was promised of anchoring, and whether it is kept."""
    if promise.policy is None:
        return None
    return pb.AnchorPolicy(
        fail_closed=promise.policy.fail_closed,
        within_s=promise.policy.within_s or 0,
        overdue=promise.overdue,
    )


def tenant_from_pb(value: str) -> str:
    """Check the name of a tenant, which may be left out."""
    if value:
        names.parse_tenant_name(value, "tenant")
    return value


def sink_from_pb(value: str) -> str:
    """Check the URI of a sink, which may be left out."""
    return names.check_text(value, "sink", max_bytes=MAX_SINK_BYTES, required=False)


def sink_to_pb(status: SinkStatus) -> pb.Sink:
    """A sink, and how it is."""
    message = pb.Sink(
        uri=status.uri,
        tree_size=status.size,
        lag=status.lag,
        busy_tree_size=status.busy_size,
        circuit_open=status.circuit_open,
    )
    if status.last is not None:
        message.evidence_kind = status.last.kind
        message.acknowledged_at_ns = status.last.acknowledged_at_ns
    trouble = status.trouble
    if trouble is not None:
        message.last_error = printable(trouble.message)[:MAX_ERROR_CHARS]
        message.failed_at_ns = trouble.failed_at_ns
        message.failures = trouble.failures
        message.next_try_at_ns = trouble.next_try_at_ns
        message.needs_person = trouble.needs_person
    return message


def policy_text_from_pb(value: str) -> bytes:
    """Check the length of a policy; what it says is for `policies` to check."""
    text = value.encode()
    if len(text) > MAX_POLICY_BYTES:
        raise invalid("text", f"must be at most {MAX_POLICY_BYTES:,} bytes")
    return text


def policy_row_to_pb(log: LogIdentity, row: PolicyRow) -> pb.Policy:
    """A version of a policy."""
    return pb.Policy(
        log=log.name,
        tenant=row.tenant,
        version=row.version,
        text=row.text.decode(),
        set_at_ns=row.set_at_ns,
        set_by=row.set_by,
    )


def policy_to_pb(log: OpenLog, tenant: str) -> pb.GetPolicyResponse:
    """The policy that holds for a tenant, and how far it is kept."""
    promise = log.state.promise(tenant)
    row = log.policies.holding(tenant)
    newest = log.policies.newest(tenant)
    response = pb.GetPolicyResponse(
        promise=promise_to_pb(promise),
        anchored_size=promise.anchored_size,
        own_version=0 if newest is None else newest.version,
    )
    if row is not None:
        own = bool(row.tenant)
        response.source = pb.POLICY_SOURCE_TENANT if own else pb.POLICY_SOURCE_LOG
        response.policy.CopyFrom(policy_row_to_pb(log.identity, row))
    else:
        given = promise.policy is not None
        response.source = pb.POLICY_SOURCE_FILE if given else pb.POLICY_SOURCE_NONE
        text = "" if promise.policy is None else promise.policy.text.decode()
        response.policy.CopyFrom(pb.Policy(log=log.identity.name, text=text))
    if not tenant:
        response.tenants.extend(log.policies.tenants())
    return response


def runs_to_pb(runs: Sequence[LeafRun]) -> list[pb.LeafRun]:
    """Where entries are."""
    return [
        pb.LeafRun(start_seq=run.start_seq, start_index=run.start_index, count=run.count)
        for run in runs
    ]


def ledger_state_to_pb(state: LedgerState | None, tree_size: int) -> pb.GetLedgerStateResponse:
    """How far the log holds a ledger; None for one it has never seen."""
    if state is None:
        return pb.GetLedgerStateResponse(seq=-1, log_index=-1, tree_size=tree_size)
    return pb.GetLedgerStateResponse(
        seq=state.seq,
        receipt_hash=state.receipt_hash,
        log_index=state.log_index,
        tree_size=tree_size,
    )


def inclusion_to_pb(log: LogIdentity, proven: Proven) -> pb.GetInclusionProofResponse:
    """One proof that stands alone."""
    proof = proven.proofs[0]
    return pb.GetInclusionProofResponse(
        proof=common_pb2.InclusionProof(
            origin=log.origin,
            log_index=proof.log_index,
            hashes=[
                proof.hashes[at : at + HASH_BYTES] for at in range(0, len(proof.hashes), HASH_BYTES)
            ],
            checkpoint=proven.checkpoint.note,
            evidence=[evidence_to_pb(row) for row in proven.evidence],
        )
    )


def batch_to_pb(log: LogIdentity, proven: Proven) -> pb.BatchGetInclusionProofsResponse:
    """Proofs that share a checkpoint."""
    return pb.BatchGetInclusionProofsResponse(
        proofs=[_indexed_proof(proof) for proof in proven.proofs],
        origin=log.origin,
        checkpoint=proven.checkpoint.note,
        tree_size=proven.checkpoint.size,
        evidence=[evidence_to_pb(row) for row in proven.evidence],
        anchored=proven.anchored,
    )


def evidence_to_pb(row: AnchorRow) -> common_pb2.AnchorEvidence:
    """What a sink returned."""
    return common_pb2.AnchorEvidence(
        sink=row.sink,
        kind=row.kind,
        acknowledged_at_ns=row.acknowledged_at_ns,
        evidence=row.evidence,
    )


def watch_to_pb(
    checkpoint: SignedCheckpoint, anchored_size: int, policy: pb.AnchorPolicy | None = None
) -> pb.WatchCheckpointsResponse:
    """One message of a watch."""
    return pb.WatchCheckpointsResponse(
        checkpoint=checkpoint.note,
        tree_size=checkpoint.size,
        anchored_size=anchored_size,
        policy=policy,
    )


def _indexed_proof(proof: Proof) -> pb.IndexedProof:
    return pb.IndexedProof(seq=proof.seq, log_index=proof.log_index, hashes=proof.hashes)


def _query(log: LogIdentity, sink: str) -> str:
    return f"{log.uid.hex()} {sink}"
