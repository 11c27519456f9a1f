from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Suite(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUITE_UNSPECIFIED: _ClassVar[Suite]
    SUITE_BLAKE3: _ClassVar[Suite]
    SUITE_BLAKE3_ALL: _ClassVar[Suite]
    SUITE_FIPS: _ClassVar[Suite]

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_CREATE: _ClassVar[Action]
    ACTION_UPDATE: _ClassVar[Action]
    ACTION_DELETE: _ClassVar[Action]

class ReceiptView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECEIPT_VIEW_UNSPECIFIED: _ClassVar[ReceiptView]
    RECEIPT_VIEW_BASIC: _ClassVar[ReceiptView]
    RECEIPT_VIEW_FULL: _ClassVar[ReceiptView]

class AnchorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANCHOR_STATE_UNSPECIFIED: _ClassVar[AnchorState]
    ANCHOR_STATE_PENDING: _ClassVar[AnchorState]
    ANCHOR_STATE_LOGGED: _ClassVar[AnchorState]
    ANCHOR_STATE_ANCHORED: _ClassVar[AnchorState]
SUITE_UNSPECIFIED: Suite
SUITE_BLAKE3: Suite
SUITE_BLAKE3_ALL: Suite
SUITE_FIPS: Suite
ACTION_UNSPECIFIED: Action
ACTION_CREATE: Action
ACTION_UPDATE: Action
ACTION_DELETE: Action
RECEIPT_VIEW_UNSPECIFIED: ReceiptView
RECEIPT_VIEW_BASIC: ReceiptView
RECEIPT_VIEW_FULL: ReceiptView
ANCHOR_STATE_UNSPECIFIED: AnchorState
ANCHOR_STATE_PENDING: AnchorState
ANCHOR_STATE_LOGGED: AnchorState
ANCHOR_STATE_ANCHORED: AnchorState

class Actor(_message.Message):
    __slots__ = ("id", "type")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: str
    def __init__(self, id: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("service", "trace_id", "upstream_events")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_EVENTS_FIELD_NUMBER: _ClassVar[int]
    service: str
    trace_id: str
    upstream_events: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., trace_id: _Optional[str] = ..., upstream_events: _Optional[_Iterable[str]] = ...) -> None: ...

class Mutation(_message.Message):
    __slots__ = ("action", "resource_type", "resource_id", "previous_state", "new_state", "diff")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATE_FIELD_NUMBER: _ClassVar[int]
    NEW_STATE_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    action: Action
    resource_type: str
    resource_id: str
    previous_state: bytes
    new_state: bytes
    diff: bytes
    def __init__(self, action: _Optional[_Union[Action, str]] = ..., resource_type: _Optional[str] = ..., resource_id: _Optional[str] = ..., previous_state: _Optional[bytes] = ..., new_state: _Optional[bytes] = ..., diff: _Optional[bytes] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("receipt_type", "media_type", "payload", "resource_type", "resource_id")
    RECEIPT_TYPE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    receipt_type: str
    media_type: str
    payload: bytes
    resource_type: str
    resource_id: str
    def __init__(self, receipt_type: _Optional[str] = ..., media_type: _Optional[str] = ..., payload: _Optional[bytes] = ..., resource_type: _Optional[str] = ..., resource_id: _Optional[str] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("request_id", "actor", "origin", "op_id", "op_parent_id", "occurred_at", "mutation", "document")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    OP_ID_FIELD_NUMBER: _ClassVar[int]
    OP_PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    MUTATION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    actor: Actor
    origin: Origin
    op_id: str
    op_parent_id: str
    occurred_at: str
    mutation: Mutation
    document: Document
    def __init__(self, request_id: _Optional[str] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., op_id: _Optional[str] = ..., op_parent_id: _Optional[str] = ..., occurred_at: _Optional[str] = ..., mutation: _Optional[_Union[Mutation, _Mapping]] = ..., document: _Optional[_Union[Document, _Mapping]] = ...) -> None: ...

class WitnessSignature(_message.Message):
    __slots__ = ("body", "sig", "index", "path")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    sig: bytes
    index: int
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, body: _Optional[bytes] = ..., sig: _Optional[bytes] = ..., index: _Optional[int] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Commitment(_message.Message):
    __slots__ = ("profile", "size", "secret", "disclosures", "digests")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    size: int
    secret: bytes
    disclosures: _containers.RepeatedScalarFieldContainer[str]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, profile: _Optional[str] = ..., size: _Optional[int] = ..., secret: _Optional[bytes] = ..., disclosures: _Optional[_Iterable[str]] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AnchorEvidence(_message.Message):
    __slots__ = ("sink", "kind", "acknowledged_at_ns", "evidence")
    SINK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    sink: str
    kind: str
    acknowledged_at_ns: int
    evidence: bytes
    def __init__(self, sink: _Optional[str] = ..., kind: _Optional[str] = ..., acknowledged_at_ns: _Optional[int] = ..., evidence: _Optional[bytes] = ...) -> None: ...

class InclusionProof(_message.Message):
    __slots__ = ("origin", "log_index", "hashes", "checkpoint", "evidence")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    origin: str
    log_index: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: bytes
    evidence: _containers.RepeatedCompositeFieldContainer[AnchorEvidence]
    def __init__(self, origin: _Optional[str] = ..., log_index: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[bytes] = ..., evidence: _Optional[_Iterable[_Union[AnchorEvidence, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("name", "receipt_type", "ledger_uid", "suite", "seq", "t_ns", "previous_hash", "payload_hash", "receipt_hash", "kid", "anchor_state", "statement", "payload", "signature", "commitment", "proofs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_TYPE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    T_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_HASH_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_HASH_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_STATE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    name: str
    receipt_type: str
    ledger_uid: bytes
    suite: Suite
    seq: int
    t_ns: int
    previous_hash: bytes
    payload_hash: bytes
    receipt_hash: bytes
    kid: str
    anchor_state: AnchorState
    statement: bytes
    payload: bytes
    signature: WitnessSignature
    commitment: Commitment
    proofs: _containers.RepeatedCompositeFieldContainer[InclusionProof]
    def __init__(self, name: _Optional[str] = ..., receipt_type: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ..., suite: _Optional[_Union[Suite, str]] = ..., seq: _Optional[int] = ..., t_ns: _Optional[int] = ..., previous_hash: _Optional[bytes] = ..., payload_hash: _Optional[bytes] = ..., receipt_hash: _Optional[bytes] = ..., kid: _Optional[str] = ..., anchor_state: _Optional[_Union[AnchorState, str]] = ..., statement: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., signature: _Optional[_Union[WitnessSignature, _Mapping]] = ..., commitment: _Optional[_Union[Commitment, _Mapping]] = ..., proofs: _Optional[_Iterable[_Union[InclusionProof, _Mapping]]] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("index", "receipt", "error", "repeated_request")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    receipt: Receipt
    error: _status_pb2.Status
    repeated_request: bool
    def __init__(self, index: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., repeated_request: _Optional[bool] = ...) -> None: ...
