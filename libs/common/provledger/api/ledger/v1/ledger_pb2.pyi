from provledger.api.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ledger(_message.Message):
    __slots__ = ("name", "uid", "suite", "log_origin", "seq", "receipt_hash", "logged_seq", "created_at_ns", "read_only_reason", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    LOG_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_HASH_FIELD_NUMBER: _ClassVar[int]
    LOGGED_SEQ_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_REASON_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: bytes
    suite: _common_pb2.Suite
    log_origin: str
    seq: int
    receipt_hash: bytes
    logged_seq: int
    created_at_ns: int
    read_only_reason: str
    log: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[bytes] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., log_origin: _Optional[str] = ..., seq: _Optional[int] = ..., receipt_hash: _Optional[bytes] = ..., logged_seq: _Optional[int] = ..., created_at_ns: _Optional[int] = ..., read_only_reason: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class CreateLedgerRequest(_message.Message):
    __slots__ = ("parent", "ledger_id", "suite", "own_log")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ID_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    OWN_LOG_FIELD_NUMBER: _ClassVar[int]
    parent: str
    ledger_id: str
    suite: _common_pb2.Suite
    own_log: bool
    def __init__(self, parent: _Optional[str] = ..., ledger_id: _Optional[str] = ..., suite: _Optional[_Union[_common_pb2.Suite, str]] = ..., own_log: _Optional[bool] = ...) -> None: ...

class CreateLedgerResponse(_message.Message):
    __slots__ = ("ledger", "created")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ledger: Ledger
    created: bool
    def __init__(self, ledger: _Optional[_Union[Ledger, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class GetLedgerRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetLedgerResponse(_message.Message):
    __slots__ = ("ledger",)
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    ledger: Ledger
    def __init__(self, ledger: _Optional[_Union[Ledger, _Mapping]] = ...) -> None: ...

class ListLedgersRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLedgersResponse(_message.Message):
    __slots__ = ("ledgers", "next_page_token")
    LEDGERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ledgers: _containers.RepeatedCompositeFieldContainer[Ledger]
    next_page_token: str
    def __init__(self, ledgers: _Optional[_Iterable[_Union[Ledger, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("ledger", "draft", "view", "wait_for")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    draft: _common_pb2.Draft
    view: _common_pb2.ReceiptView
    wait_for: _common_pb2.AnchorState
    def __init__(self, ledger: _Optional[str] = ..., draft: _Optional[_Union[_common_pb2.Draft, _Mapping]] = ..., view: _Optional[_Union[_common_pb2.ReceiptView, str]] = ..., wait_for: _Optional[_Union[_common_pb2.AnchorState, str]] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("receipt", "repeated_request")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.Receipt
    repeated_request: bool
    def __init__(self, receipt: _Optional[_Union[_common_pb2.Receipt, _Mapping]] = ..., repeated_request: _Optional[bool] = ...) -> None: ...

class AppendBatchRequest(_message.Message):
    __slots__ = ("ledger", "drafts", "view", "wait_for")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    drafts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Draft]
    view: _common_pb2.ReceiptView
    wait_for: _common_pb2.AnchorState
    def __init__(self, ledger: _Optional[str] = ..., drafts: _Optional[_Iterable[_Union[_common_pb2.Draft, _Mapping]]] = ..., view: _Optional[_Union[_common_pb2.ReceiptView, str]] = ..., wait_for: _Optional[_Union[_common_pb2.AnchorState, str]] = ...) -> None: ...

class AppendBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_common_pb2.AppendResult]
    def __init__(self, results: _Optional[_Iterable[_Union[_common_pb2.AppendResult, _Mapping]]] = ...) -> None: ...

class AppendStreamRequest(_message.Message):
    __slots__ = ("ledger", "draft", "view", "drafts")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    draft: _common_pb2.Draft
    view: _common_pb2.ReceiptView
    drafts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Draft]
    def __init__(self, ledger: _Optional[str] = ..., draft: _Optional[_Union[_common_pb2.Draft, _Mapping]] = ..., view: _Optional[_Union[_common_pb2.ReceiptView, str]] = ..., drafts: _Optional[_Iterable[_Union[_common_pb2.Draft, _Mapping]]] = ...) -> None: ...

class AppendStreamResponse(_message.Message):
    __slots__ = ("result", "results")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    result: _common_pb2.AppendResult
    results: _containers.RepeatedCompositeFieldContainer[_common_pb2.AppendResult]
    def __init__(self, result: _Optional[_Union[_common_pb2.AppendResult, _Mapping]] = ..., results: _Optional[_Iterable[_Union[_common_pb2.AppendResult, _Mapping]]] = ...) -> None: ...

class GetReceiptRequest(_message.Message):
    __slots__ = ("name", "view", "wait_for")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    view: _common_pb2.ReceiptView
    wait_for: _common_pb2.AnchorState
    def __init__(self, name: _Optional[str] = ..., view: _Optional[_Union[_common_pb2.ReceiptView, str]] = ..., wait_for: _Optional[_Union[_common_pb2.AnchorState, str]] = ...) -> None: ...

class GetReceiptResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.Receipt
    def __init__(self, receipt: _Optional[_Union[_common_pb2.Receipt, _Mapping]] = ...) -> None: ...

class ListReceiptsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "view", "resource_type", "resource_id", "actor_id", "receipt_type", "start_t_ns", "end_t_ns", "tree_size")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_TYPE_FIELD_NUMBER: _ClassVar[int]
    START_T_NS_FIELD_NUMBER: _ClassVar[int]
    END_T_NS_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    view: _common_pb2.ReceiptView
    resource_type: str
    resource_id: str
    actor_id: str
    receipt_type: str
    start_t_ns: int
    end_t_ns: int
    tree_size: int
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[_common_pb2.ReceiptView, str]] = ..., resource_type: _Optional[str] = ..., resource_id: _Optional[str] = ..., actor_id: _Optional[str] = ..., receipt_type: _Optional[str] = ..., start_t_ns: _Optional[int] = ..., end_t_ns: _Optional[int] = ..., tree_size: _Optional[int] = ...) -> None: ...

class ListReceiptsResponse(_message.Message):
    __slots__ = ("receipts", "next_page_token", "tree_size")
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Receipt]
    next_page_token: str
    tree_size: int
    def __init__(self, receipts: _Optional[_Iterable[_Union[_common_pb2.Receipt, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., tree_size: _Optional[int] = ...) -> None: ...

class GetHeadRequest(_message.Message):
    __slots__ = ("name", "tree_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    tree_size: int
    def __init__(self, name: _Optional[str] = ..., tree_size: _Optional[int] = ...) -> None: ...

class GetHeadResponse(_message.Message):
    __slots__ = ("head", "checkpoint")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    checkpoint: bytes
    def __init__(self, head: _Optional[bytes] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class VerifyRangeRequest(_message.Message):
    __slots__ = ("name", "start_seq", "end_seq")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_SEQ_FIELD_NUMBER: _ClassVar[int]
    END_SEQ_FIELD_NUMBER: _ClassVar[int]
    name: str
    start_seq: int
    end_seq: int
    def __init__(self, name: _Optional[str] = ..., start_seq: _Optional[int] = ..., end_seq: _Optional[int] = ...) -> None: ...

class VerifyRangeResponse(_message.Message):
    __slots__ = ("checked_seq", "checked_count", "head_seq", "receipt_hash", "places_checked", "name")
    CHECKED_SEQ_FIELD_NUMBER: _ClassVar[int]
    CHECKED_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_SEQ_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_HASH_FIELD_NUMBER: _ClassVar[int]
    PLACES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    checked_seq: int
    checked_count: int
    head_seq: int
    receipt_hash: bytes
    places_checked: bool
    name: str
    def __init__(self, checked_seq: _Optional[int] = ..., checked_count: _Optional[int] = ..., head_seq: _Optional[int] = ..., receipt_hash: _Optional[bytes] = ..., places_checked: _Optional[bool] = ..., name: _Optional[str] = ...) -> None: ...
