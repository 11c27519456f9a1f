from provledger.api.common.v1 import common_pb2 as _common_pb2
from provledger.api.keys.v1 import keys_pb2 as _keys_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_STATE_UNSPECIFIED: _ClassVar[LogState]
    LOG_STATE_SERVING: _ClassVar[LogState]
    LOG_STATE_DAMAGED: _ClassVar[LogState]

class PolicySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_SOURCE_UNSPECIFIED: _ClassVar[PolicySource]
    POLICY_SOURCE_TENANT: _ClassVar[PolicySource]
    POLICY_SOURCE_LOG: _ClassVar[PolicySource]
    POLICY_SOURCE_FILE: _ClassVar[PolicySource]
    POLICY_SOURCE_NONE: _ClassVar[PolicySource]
LOG_STATE_UNSPECIFIED: LogState
LOG_STATE_SERVING: LogState
LOG_STATE_DAMAGED: LogState
POLICY_SOURCE_UNSPECIFIED: PolicySource
POLICY_SOURCE_TENANT: PolicySource
POLICY_SOURCE_LOG: PolicySource
POLICY_SOURCE_FILE: PolicySource
POLICY_SOURCE_NONE: PolicySource

class Log(_message.Message):
    __slots__ = ("name", "uid", "origin", "suite", "vkey", "key_thumbprint", "tree_size", "published_size", "anchored_size", "policy", "tenants", "state", "damage", "held", "tenant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    VKEY_FIELD_NUMBER: _ClassVar[int]
    KEY_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_SIZE_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: bytes
    origin: str
    suite: _common_pb2.Suite
    vkey: str
    key_thumbprint: bytes
    tree_size: int
    published_size: int
    anchored_size: int
    policy: AnchorPolicy
    tenants: _containers.RepeatedCompositeFieldContainer[TenantPromise]
    state: LogState
    damage: LogDamage
    held: str
    tenant: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[bytes] = ..., origin: _Optional[str] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., vkey: _Optional[str] = ..., key_thumbprint: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., published_size: _Optional[int] = ..., anchored_size: _Optional[int] = ..., policy: _Optional[_Union[AnchorPolicy, _Mapping]] = ..., tenants: _Optional[_Iterable[_Union[TenantPromise, _Mapping]]] = ..., state: _Optional[_Union[LogState, str]] = ..., damage: _Optional[_Union[LogDamage, _Mapping]] = ..., held: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class LogDamage(_message.Message):
    __slots__ = ("tenant", "reason", "message", "tile")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    reason: str
    message: str
    tile: str
    def __init__(self, tenant: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., tile: _Optional[str] = ...) -> None: ...

class TenantPromise(_message.Message):
    __slots__ = ("tenant", "anchored_size", "policy")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    anchored_size: int
    policy: AnchorPolicy
    def __init__(self, tenant: _Optional[str] = ..., anchored_size: _Optional[int] = ..., policy: _Optional[_Union[AnchorPolicy, _Mapping]] = ...) -> None: ...

class AnchorPolicy(_message.Message):
    __slots__ = ("fail_closed", "within_s", "overdue")
    FAIL_CLOSED_FIELD_NUMBER: _ClassVar[int]
    WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_FIELD_NUMBER: _ClassVar[int]
    fail_closed: bool
    within_s: int
    overdue: bool
    def __init__(self, fail_closed: _Optional[bool] = ..., within_s: _Optional[int] = ..., overdue: _Optional[bool] = ...) -> None: ...

class GetLogRequest(_message.Message):
    __slots__ = ("name", "with_tenants", "count_ledgers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WITH_TENANTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_LEDGERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    with_tenants: bool
    count_ledgers: bool
    def __init__(self, name: _Optional[str] = ..., with_tenants: _Optional[bool] = ..., count_ledgers: _Optional[bool] = ...) -> None: ...

class GetLogResponse(_message.Message):
    __slots__ = ("log", "ledger_count")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LEDGER_COUNT_FIELD_NUMBER: _ClassVar[int]
    log: Log
    ledger_count: int
    def __init__(self, log: _Optional[_Union[Log, _Mapping]] = ..., ledger_count: _Optional[int] = ...) -> None: ...

class ListLogsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLogsResponse(_message.Message):
    __slots__ = ("logs", "next_page_token", "lost_logs")
    LOGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOST_LOGS_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    next_page_token: str
    lost_logs: _containers.RepeatedCompositeFieldContainer[LostLog]
    def __init__(self, logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., lost_logs: _Optional[_Iterable[_Union[LostLog, _Mapping]]] = ...) -> None: ...

class LostLog(_message.Message):
    __slots__ = ("name", "where", "tree_size", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    where: str
    tree_size: int
    reason: str
    def __init__(self, name: _Optional[str] = ..., where: _Optional[str] = ..., tree_size: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class GetTileRequest(_message.Message):
    __slots__ = ("log", "path", "offset", "max_bytes")
    LOG_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    log: str
    path: str
    offset: int
    max_bytes: int
    def __init__(self, log: _Optional[str] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class GetTileResponse(_message.Message):
    __slots__ = ("data", "total_bytes", "digest")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_bytes: int
    digest: bytes
    def __init__(self, data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class CreateLogRequest(_message.Message):
    __slots__ = ("tenant", "suite", "kept_for")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FOR_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    suite: _common_pb2.Suite
    kept_for: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., kept_for: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateLogResponse(_message.Message):
    __slots__ = ("log", "created")
    LOG_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    log: Log
    created: bool
    def __init__(self, log: _Optional[_Union[Log, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class SubmitLeavesRequest(_message.Message):
    __slots__ = ("log", "ledger_uid", "suite", "start_seq", "entries", "with_proofs")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    START_SEQ_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    WITH_PROOFS_FIELD_NUMBER: _ClassVar[int]
    log: str
    ledger_uid: bytes
    suite: _common_pb2.Suite
    start_seq: int
    entries: _containers.RepeatedScalarFieldContainer[bytes]
    with_proofs: bool
    def __init__(self, log: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., start_seq: _Optional[int] = ..., entries: _Optional[_Iterable[bytes]] = ..., with_proofs: _Optional[bool] = ...) -> None: ...

class SubmitLeavesResponse(_message.Message):
    __slots__ = ("runs", "tree_size", "proofs")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[LeafRun]
    tree_size: int
    proofs: BatchGetInclusionProofsResponse
    def __init__(self, runs: _Optional[_Iterable[_Union[LeafRun, _Mapping]]] = ..., tree_size: _Optional[int] = ..., proofs: _Optional[_Union[BatchGetInclusionProofsResponse, _Mapping]] = ...) -> None: ...

class LeafRun(_message.Message):
    __slots__ = ("start_seq", "start_index", "count")
    START_SEQ_FIELD_NUMBER: _ClassVar[int]
    START_INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    start_seq: int
    start_index: int
    count: int
    def __init__(self, start_seq: _Optional[int] = ..., start_index: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class GetLedgerStateRequest(_message.Message):
    __slots__ = ("log", "ledger_uid")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    log: str
    ledger_uid: bytes
    def __init__(self, log: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ...) -> None: ...

class GetLedgerStateResponse(_message.Message):
    __slots__ = ("seq", "receipt_hash", "log_index", "tree_size")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_HASH_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    receipt_hash: bytes
    log_index: int
    tree_size: int
    def __init__(self, seq: _Optional[int] = ..., receipt_hash: _Optional[bytes] = ..., log_index: _Optional[int] = ..., tree_size: _Optional[int] = ...) -> None: ...

class GetInclusionProofRequest(_message.Message):
    __slots__ = ("log", "log_index", "tree_size", "tenant")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    log: str
    log_index: int
    tree_size: int
    tenant: str
    def __init__(self, log: _Optional[str] = ..., log_index: _Optional[int] = ..., tree_size: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class GetInclusionProofResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: _common_pb2.InclusionProof
    def __init__(self, proof: _Optional[_Union[_common_pb2.InclusionProof, _Mapping]] = ...) -> None: ...

class GetCoseReceiptRequest(_message.Message):
    __slots__ = ("log", "log_index", "tree_size")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    log: str
    log_index: int
    tree_size: int
    def __init__(self, log: _Optional[str] = ..., log_index: _Optional[int] = ..., tree_size: _Optional[int] = ...) -> None: ...

class GetCoseReceiptResponse(_message.Message):
    __slots__ = ("receipt", "tree_size")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    tree_size: int
    def __init__(self, receipt: _Optional[bytes] = ..., tree_size: _Optional[int] = ...) -> None: ...

class BatchGetInclusionProofsRequest(_message.Message):
    __slots__ = ("log", "ledger_uid", "seqs", "tree_size", "tenant")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    log: str
    ledger_uid: bytes
    seqs: _containers.RepeatedScalarFieldContainer[int]
    tree_size: int
    tenant: str
    def __init__(self, log: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ..., seqs: _Optional[_Iterable[int]] = ..., tree_size: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class IndexedProof(_message.Message):
    __slots__ = ("seq", "log_index", "hashes")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    log_index: int
    hashes: bytes
    def __init__(self, seq: _Optional[int] = ..., log_index: _Optional[int] = ..., hashes: _Optional[bytes] = ...) -> None: ...

class BatchGetInclusionProofsResponse(_message.Message):
    __slots__ = ("proofs", "origin", "checkpoint", "tree_size", "evidence", "anchored")
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_FIELD_NUMBER: _ClassVar[int]
    proofs: _containers.RepeatedCompositeFieldContainer[IndexedProof]
    origin: str
    checkpoint: bytes
    tree_size: int
    evidence: _containers.RepeatedCompositeFieldContainer[_common_pb2.AnchorEvidence]
    anchored: bool
    def __init__(self, proofs: _Optional[_Iterable[_Union[IndexedProof, _Mapping]]] = ..., origin: _Optional[str] = ..., checkpoint: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., evidence: _Optional[_Iterable[_Union[_common_pb2.AnchorEvidence, _Mapping]]] = ..., anchored: _Optional[bool] = ...) -> None: ...

class GetConsistencyProofRequest(_message.Message):
    __slots__ = ("log", "old_size", "new_size")
    LOG_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    log: str
    old_size: int
    new_size: int
    def __init__(self, log: _Optional[str] = ..., old_size: _Optional[int] = ..., new_size: _Optional[int] = ...) -> None: ...

class GetConsistencyProofResponse(_message.Message):
    __slots__ = ("hashes", "new_size")
    HASHES_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    new_size: int
    def __init__(self, hashes: _Optional[_Iterable[bytes]] = ..., new_size: _Optional[int] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ("log", "tree_size", "published")
    LOG_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    log: str
    tree_size: int
    published: bool
    def __init__(self, log: _Optional[str] = ..., tree_size: _Optional[int] = ..., published: _Optional[bool] = ...) -> None: ...

class GetCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint", "tree_size", "published")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    tree_size: int
    published: bool
    def __init__(self, checkpoint: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., published: _Optional[bool] = ...) -> None: ...

class WatchCheckpointsRequest(_message.Message):
    __slots__ = ("log", "published", "tenant")
    LOG_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    log: str
    published: bool
    tenant: str
    def __init__(self, log: _Optional[str] = ..., published: _Optional[bool] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatchCheckpointsResponse(_message.Message):
    __slots__ = ("checkpoint", "tree_size", "anchored_size", "policy")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    tree_size: int
    anchored_size: int
    policy: AnchorPolicy
    def __init__(self, checkpoint: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., anchored_size: _Optional[int] = ..., policy: _Optional[_Union[AnchorPolicy, _Mapping]] = ...) -> None: ...

class GetLedgerHeadRequest(_message.Message):
    __slots__ = ("log", "ledger_uid", "tree_size")
    LOG_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    log: str
    ledger_uid: bytes
    tree_size: int
    def __init__(self, log: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ..., tree_size: _Optional[int] = ...) -> None: ...

class GetLedgerHeadResponse(_message.Message):
    __slots__ = ("head", "checkpoint")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    checkpoint: bytes
    def __init__(self, head: _Optional[bytes] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class Anchor(_message.Message):
    __slots__ = ("tree_size", "evidence")
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    tree_size: int
    evidence: _common_pb2.AnchorEvidence
    def __init__(self, tree_size: _Optional[int] = ..., evidence: _Optional[_Union[_common_pb2.AnchorEvidence, _Mapping]] = ...) -> None: ...

class ListAnchorsRequest(_message.Message):
    __slots__ = ("log", "page_size", "page_token", "sink")
    LOG_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    log: str
    page_size: int
    page_token: str
    sink: str
    def __init__(self, log: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., sink: _Optional[str] = ...) -> None: ...

class ListAnchorsResponse(_message.Message):
    __slots__ = ("anchors", "next_page_token")
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    anchors: _containers.RepeatedCompositeFieldContainer[Anchor]
    next_page_token: str
    def __init__(self, anchors: _Optional[_Iterable[_Union[Anchor, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Sink(_message.Message):
    __slots__ = ("uri", "tree_size", "lag", "busy_tree_size", "evidence_kind", "acknowledged_at_ns", "last_error", "failed_at_ns", "failures", "circuit_open", "next_try_at_ns", "needs_person")
    URI_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    BUSY_TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_KIND_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_OPEN_FIELD_NUMBER: _ClassVar[int]
    NEXT_TRY_AT_NS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_PERSON_FIELD_NUMBER: _ClassVar[int]
    uri: str
    tree_size: int
    lag: int
    busy_tree_size: int
    evidence_kind: str
    acknowledged_at_ns: int
    last_error: str
    failed_at_ns: int
    failures: int
    circuit_open: bool
    next_try_at_ns: int
    needs_person: bool
    def __init__(self, uri: _Optional[str] = ..., tree_size: _Optional[int] = ..., lag: _Optional[int] = ..., busy_tree_size: _Optional[int] = ..., evidence_kind: _Optional[str] = ..., acknowledged_at_ns: _Optional[int] = ..., last_error: _Optional[str] = ..., failed_at_ns: _Optional[int] = ..., failures: _Optional[int] = ..., circuit_open: _Optional[bool] = ..., next_try_at_ns: _Optional[int] = ..., needs_person: _Optional[bool] = ...) -> None: ...

class ListSinksRequest(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: str
    def __init__(self, log: _Optional[str] = ...) -> None: ...

class ListSinksResponse(_message.Message):
    __slots__ = ("sinks", "published_size", "held")
    SINKS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_SIZE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    sinks: _containers.RepeatedCompositeFieldContainer[Sink]
    published_size: int
    held: str
    def __init__(self, sinks: _Optional[_Iterable[_Union[Sink, _Mapping]]] = ..., published_size: _Optional[int] = ..., held: _Optional[str] = ...) -> None: ...

class RetrySinkRequest(_message.Message):
    __slots__ = ("log", "sink")
    LOG_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    log: str
    sink: str
    def __init__(self, log: _Optional[str] = ..., sink: _Optional[str] = ...) -> None: ...

class RetrySinkResponse(_message.Message):
    __slots__ = ("sinks",)
    SINKS_FIELD_NUMBER: _ClassVar[int]
    sinks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sinks: _Optional[_Iterable[str]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("log", "tenant", "version", "text", "set_at_ns", "set_by")
    LOG_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SET_AT_NS_FIELD_NUMBER: _ClassVar[int]
    SET_BY_FIELD_NUMBER: _ClassVar[int]
    log: str
    tenant: str
    version: int
    text: str
    set_at_ns: int
    set_by: str
    def __init__(self, log: _Optional[str] = ..., tenant: _Optional[str] = ..., version: _Optional[int] = ..., text: _Optional[str] = ..., set_at_ns: _Optional[int] = ..., set_by: _Optional[str] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("log", "tenant", "text", "expected_version", "validate_only")
    LOG_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    log: str
    tenant: str
    text: str
    expected_version: int
    validate_only: bool
    def __init__(self, log: _Optional[str] = ..., tenant: _Optional[str] = ..., text: _Optional[str] = ..., expected_version: _Optional[int] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("log", "tenant", "version")
    LOG_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    log: str
    tenant: str
    version: int
    def __init__(self, log: _Optional[str] = ..., tenant: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy", "source", "promise", "anchored_size", "tenants", "own_version")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    ANCHORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    OWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    source: PolicySource
    promise: AnchorPolicy
    anchored_size: int
    tenants: _containers.RepeatedScalarFieldContainer[str]
    own_version: int
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., source: _Optional[_Union[PolicySource, str]] = ..., promise: _Optional[_Union[AnchorPolicy, _Mapping]] = ..., anchored_size: _Optional[int] = ..., tenants: _Optional[_Iterable[str]] = ..., own_version: _Optional[int] = ...) -> None: ...

class SignKeyEventRequest(_message.Message):
    __slots__ = ("event", "kid")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    event: _keys_pb2.KeyEvent
    kid: str
    def __init__(self, event: _Optional[_Union[_keys_pb2.KeyEvent, _Mapping]] = ..., kid: _Optional[str] = ...) -> None: ...

class SignKeyEventResponse(_message.Message):
    __slots__ = ("endorsement",)
    ENDORSEMENT_FIELD_NUMBER: _ClassVar[int]
    endorsement: _keys_pb2.KeyEndorsement
    def __init__(self, endorsement: _Optional[_Union[_keys_pb2.KeyEndorsement, _Mapping]] = ...) -> None: ...
