from google.rpc import status_pb2 as _status_pb2
from provledger.api.common.v1 import common_pb2 as _common_pb2
from provledger.api.keys.v1 import keys_pb2 as _keys_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WitnessItem(_message.Message):
    __slots__ = ("receipt_id", "principal", "draft")
    RECEIPT_ID_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    receipt_id: bytes
    principal: str
    draft: _common_pb2.Draft
    def __init__(self, receipt_id: _Optional[bytes] = ..., principal: _Optional[str] = ..., draft: _Optional[_Union[_common_pb2.Draft, _Mapping]] = ...) -> None: ...

class WitnessBatchRequest(_message.Message):
    __slots__ = ("ledger", "ledger_uid", "suite", "items", "system")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    LEDGER_UID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    ledger_uid: bytes
    suite: _common_pb2.Suite
    items: _containers.RepeatedCompositeFieldContainer[WitnessItem]
    system: bool
    def __init__(self, ledger: _Optional[str] = ..., ledger_uid: _Optional[bytes] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., items: _Optional[_Iterable[_Union[WitnessItem, _Mapping]]] = ..., system: _Optional[bool] = ...) -> None: ...

class WitnessedStatement(_message.Message):
    __slots__ = ("statement", "payload", "receipt_type", "profile", "commitment_size", "secret", "payload_hash", "batch_index")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_HASH_FIELD_NUMBER: _ClassVar[int]
    BATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    payload: bytes
    receipt_type: str
    profile: str
    commitment_size: int
    secret: bytes
    payload_hash: bytes
    batch_index: int
    def __init__(self, statement: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., receipt_type: _Optional[str] = ..., profile: _Optional[str] = ..., commitment_size: _Optional[int] = ..., secret: _Optional[bytes] = ..., payload_hash: _Optional[bytes] = ..., batch_index: _Optional[int] = ...) -> None: ...

class WitnessResult(_message.Message):
    __slots__ = ("witnessed", "rejection")
    WITNESSED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    witnessed: WitnessedStatement
    rejection: _status_pb2.Status
    def __init__(self, witnessed: _Optional[_Union[WitnessedStatement, _Mapping]] = ..., rejection: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class WitnessBatchResponse(_message.Message):
    __slots__ = ("results", "body", "sig", "leaf_hashes", "kid", "epoch", "signed_at_ns")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    LEAF_HASHES_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SIGNED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WitnessResult]
    body: bytes
    sig: bytes
    leaf_hashes: bytes
    kid: str
    epoch: int
    signed_at_ns: int
    def __init__(self, results: _Optional[_Iterable[_Union[WitnessResult, _Mapping]]] = ..., body: _Optional[bytes] = ..., sig: _Optional[bytes] = ..., leaf_hashes: _Optional[bytes] = ..., kid: _Optional[str] = ..., epoch: _Optional[int] = ..., signed_at_ns: _Optional[int] = ...) -> None: ...

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
