from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyPurpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_PURPOSE_UNSPECIFIED: _ClassVar[KeyPurpose]
    KEY_PURPOSE_WITNESS: _ClassVar[KeyPurpose]
    KEY_PURPOSE_CHECKPOINT: _ClassVar[KeyPurpose]
    KEY_PURPOSE_HEAD: _ClassVar[KeyPurpose]
    KEY_PURPOSE_RECEIPT: _ClassVar[KeyPurpose]

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_PENDING: _ClassVar[KeyState]
    KEY_STATE_ACTIVE: _ClassVar[KeyState]
    KEY_STATE_DRAINING: _ClassVar[KeyState]
    KEY_STATE_RETIRED: _ClassVar[KeyState]
    KEY_STATE_REVOKED: _ClassVar[KeyState]

class KeyEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_EVENT_TYPE_UNSPECIFIED: _ClassVar[KeyEventType]
    KEY_EVENT_TYPE_GENESIS: _ClassVar[KeyEventType]
    KEY_EVENT_TYPE_CREATED: _ClassVar[KeyEventType]
    KEY_EVENT_TYPE_ROTATED: _ClassVar[KeyEventType]
    KEY_EVENT_TYPE_RETIRED: _ClassVar[KeyEventType]
    KEY_EVENT_TYPE_REVOKED: _ClassVar[KeyEventType]

class KeyEventState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_EVENT_STATE_UNSPECIFIED: _ClassVar[KeyEventState]
    KEY_EVENT_STATE_PROPOSED: _ClassVar[KeyEventState]
    KEY_EVENT_STATE_SEALED: _ClassVar[KeyEventState]
    KEY_EVENT_STATE_RECORDED: _ClassVar[KeyEventState]
KEY_PURPOSE_UNSPECIFIED: KeyPurpose
KEY_PURPOSE_WITNESS: KeyPurpose
KEY_PURPOSE_CHECKPOINT: KeyPurpose
KEY_PURPOSE_HEAD: KeyPurpose
KEY_PURPOSE_RECEIPT: KeyPurpose
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_PENDING: KeyState
KEY_STATE_ACTIVE: KeyState
KEY_STATE_DRAINING: KeyState
KEY_STATE_RETIRED: KeyState
KEY_STATE_REVOKED: KeyState
KEY_EVENT_TYPE_UNSPECIFIED: KeyEventType
KEY_EVENT_TYPE_GENESIS: KeyEventType
KEY_EVENT_TYPE_CREATED: KeyEventType
KEY_EVENT_TYPE_ROTATED: KeyEventType
KEY_EVENT_TYPE_RETIRED: KeyEventType
KEY_EVENT_TYPE_REVOKED: KeyEventType
KEY_EVENT_STATE_UNSPECIFIED: KeyEventState
KEY_EVENT_STATE_PROPOSED: KeyEventState
KEY_EVENT_STATE_SEALED: KeyEventState
KEY_EVENT_STATE_RECORDED: KeyEventState

class Key(_message.Message):
    __slots__ = ("name", "kid", "purpose", "state", "epoch", "uri", "jwk", "thumbprint", "created_at_ns", "not_before_ns", "not_after_ns", "revocation_reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    kid: str
    purpose: KeyPurpose
    state: KeyState
    epoch: int
    uri: str
    jwk: bytes
    thumbprint: bytes
    created_at_ns: int
    not_before_ns: int
    not_after_ns: int
    revocation_reason: str
    def __init__(self, name: _Optional[str] = ..., kid: _Optional[str] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ..., state: _Optional[_Union[KeyState, str]] = ..., epoch: _Optional[int] = ..., uri: _Optional[str] = ..., jwk: _Optional[bytes] = ..., thumbprint: _Optional[bytes] = ..., created_at_ns: _Optional[int] = ..., not_before_ns: _Optional[int] = ..., not_after_ns: _Optional[int] = ..., revocation_reason: _Optional[str] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("kid", "purpose", "uri", "jwk")
    KID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    kid: str
    purpose: KeyPurpose
    uri: str
    jwk: bytes
    def __init__(self, kid: _Optional[str] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ..., uri: _Optional[str] = ..., jwk: _Optional[bytes] = ...) -> None: ...

class CreateKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "purpose")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    purpose: KeyPurpose
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("kid", "purpose", "uri", "jwk", "hold_pending")
    KID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    HOLD_PENDING_FIELD_NUMBER: _ClassVar[int]
    kid: str
    purpose: KeyPurpose
    uri: str
    jwk: bytes
    hold_pending: bool
    def __init__(self, kid: _Optional[str] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ..., uri: _Optional[str] = ..., jwk: _Optional[bytes] = ..., hold_pending: _Optional[bool] = ...) -> None: ...

class RotateKeyResponse(_message.Message):
    __slots__ = ("key", "previous")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    key: Key
    previous: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., previous: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class CommitRotationRequest(_message.Message):
    __slots__ = ("kid",)
    KID_FIELD_NUMBER: _ClassVar[int]
    kid: str
    def __init__(self, kid: _Optional[str] = ...) -> None: ...

class CommitRotationResponse(_message.Message):
    __slots__ = ("key", "previous")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    key: Key
    previous: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., previous: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class CoveredCheckpoint(_message.Message):
    __slots__ = ("origin", "size", "root")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    root: bytes
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ..., root: _Optional[bytes] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("kid", "reason", "after", "replacement_kid")
    KID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_KID_FIELD_NUMBER: _ClassVar[int]
    kid: str
    reason: str
    after: _containers.RepeatedCompositeFieldContainer[CoveredCheckpoint]
    replacement_kid: str
    def __init__(self, kid: _Optional[str] = ..., reason: _Optional[str] = ..., after: _Optional[_Iterable[_Union[CoveredCheckpoint, _Mapping]]] = ..., replacement_kid: _Optional[str] = ...) -> None: ...

class FirstKey(_message.Message):
    __slots__ = ("kid", "purpose", "uri", "jwk", "thumbprint", "not_before_ns")
    KID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    kid: str
    purpose: KeyPurpose
    uri: str
    jwk: bytes
    thumbprint: bytes
    not_before_ns: int
    def __init__(self, kid: _Optional[str] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ..., uri: _Optional[str] = ..., jwk: _Optional[bytes] = ..., thumbprint: _Optional[bytes] = ..., not_before_ns: _Optional[int] = ...) -> None: ...

class LogSize(_message.Message):
    __slots__ = ("origin", "size")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class KeyEvent(_message.Message):
    __slots__ = ("type", "at_ns", "kid", "thumbprint", "purpose", "genesis", "uri", "jwk", "epoch", "not_before_ns", "not_after_ns", "previous_kid", "previous_thumbprint", "sizes", "reason", "after", "first_keys")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    AT_NS_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    GENESIS_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    JWK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_KID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FIRST_KEYS_FIELD_NUMBER: _ClassVar[int]
    type: KeyEventType
    at_ns: int
    kid: str
    thumbprint: bytes
    purpose: KeyPurpose
    genesis: bytes
    uri: str
    jwk: bytes
    epoch: int
    not_before_ns: int
    not_after_ns: int
    previous_kid: str
    previous_thumbprint: bytes
    sizes: _containers.RepeatedCompositeFieldContainer[LogSize]
    reason: str
    after: _containers.RepeatedCompositeFieldContainer[CoveredCheckpoint]
    first_keys: _containers.RepeatedCompositeFieldContainer[FirstKey]
    def __init__(self, type: _Optional[_Union[KeyEventType, str]] = ..., at_ns: _Optional[int] = ..., kid: _Optional[str] = ..., thumbprint: _Optional[bytes] = ..., purpose: _Optional[_Union[KeyPurpose, str]] = ..., genesis: _Optional[bytes] = ..., uri: _Optional[str] = ..., jwk: _Optional[bytes] = ..., epoch: _Optional[int] = ..., not_before_ns: _Optional[int] = ..., not_after_ns: _Optional[int] = ..., previous_kid: _Optional[str] = ..., previous_thumbprint: _Optional[bytes] = ..., sizes: _Optional[_Iterable[_Union[LogSize, _Mapping]]] = ..., reason: _Optional[str] = ..., after: _Optional[_Iterable[_Union[CoveredCheckpoint, _Mapping]]] = ..., first_keys: _Optional[_Iterable[_Union[FirstKey, _Mapping]]] = ...) -> None: ...

class KeyEndorsement(_message.Message):
    __slots__ = ("kid", "thumbprint", "sig")
    KID_FIELD_NUMBER: _ClassVar[int]
    THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    kid: str
    thumbprint: bytes
    sig: bytes
    def __init__(self, kid: _Optional[str] = ..., thumbprint: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class JournaledKeyEvent(_message.Message):
    __slots__ = ("digest", "event", "endorsements", "state", "receipt", "endorser_kids", "payload")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ENDORSER_KIDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    event: KeyEvent
    endorsements: _containers.RepeatedCompositeFieldContainer[KeyEndorsement]
    state: KeyEventState
    receipt: str
    endorser_kids: _containers.RepeatedScalarFieldContainer[str]
    payload: bytes
    def __init__(self, digest: _Optional[bytes] = ..., event: _Optional[_Union[KeyEvent, _Mapping]] = ..., endorsements: _Optional[_Iterable[_Union[KeyEndorsement, _Mapping]]] = ..., state: _Optional[_Union[KeyEventState, str]] = ..., receipt: _Optional[str] = ..., endorser_kids: _Optional[_Iterable[str]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class ProposeGenesisRequest(_message.Message):
    __slots__ = ("recovery_kid", "recovery_jwk")
    RECOVERY_KID_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_JWK_FIELD_NUMBER: _ClassVar[int]
    recovery_kid: str
    recovery_jwk: bytes
    def __init__(self, recovery_kid: _Optional[str] = ..., recovery_jwk: _Optional[bytes] = ...) -> None: ...

class ProposeGenesisResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: JournaledKeyEvent
    def __init__(self, event: _Optional[_Union[JournaledKeyEvent, _Mapping]] = ...) -> None: ...

class EndorseKeyEventRequest(_message.Message):
    __slots__ = ("digest", "endorsements")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    endorsements: _containers.RepeatedCompositeFieldContainer[KeyEndorsement]
    def __init__(self, digest: _Optional[bytes] = ..., endorsements: _Optional[_Iterable[_Union[KeyEndorsement, _Mapping]]] = ...) -> None: ...

class EndorseKeyEventResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: JournaledKeyEvent
    def __init__(self, event: _Optional[_Union[JournaledKeyEvent, _Mapping]] = ...) -> None: ...

class RecordKeyEventRequest(_message.Message):
    __slots__ = ("digest", "receipt")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    receipt: str
    def __init__(self, digest: _Optional[bytes] = ..., receipt: _Optional[str] = ...) -> None: ...

class RecordKeyEventResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: JournaledKeyEvent
    def __init__(self, event: _Optional[_Union[JournaledKeyEvent, _Mapping]] = ...) -> None: ...

class CancelRotationRequest(_message.Message):
    __slots__ = ("kid",)
    KID_FIELD_NUMBER: _ClassVar[int]
    kid: str
    def __init__(self, kid: _Optional[str] = ...) -> None: ...

class CancelRotationResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class ListKeyEventsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeyEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[JournaledKeyEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[JournaledKeyEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SignerKey(_message.Message):
    __slots__ = ("purpose", "kid", "epoch")
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    purpose: KeyPurpose
    kid: str
    epoch: int
    def __init__(self, purpose: _Optional[_Union[KeyPurpose, str]] = ..., kid: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Signer(_message.Message):
    __slots__ = ("watcher", "instance", "keys", "log_sizes", "time_ns")
    WATCHER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZES_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    watcher: str
    instance: str
    keys: _containers.RepeatedCompositeFieldContainer[SignerKey]
    log_sizes: _containers.RepeatedCompositeFieldContainer[LogSize]
    time_ns: int
    def __init__(self, watcher: _Optional[str] = ..., instance: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[SignerKey, _Mapping]]] = ..., log_sizes: _Optional[_Iterable[_Union[LogSize, _Mapping]]] = ..., time_ns: _Optional[int] = ...) -> None: ...

class ReportSignerRequest(_message.Message):
    __slots__ = ("signer", "leaving")
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    signer: Signer
    leaving: bool
    def __init__(self, signer: _Optional[_Union[Signer, _Mapping]] = ..., leaving: _Optional[bool] = ...) -> None: ...

class ReportSignerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSignersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSignersResponse(_message.Message):
    __slots__ = ("signers",)
    SIGNERS_FIELD_NUMBER: _ClassVar[int]
    signers: _containers.RepeatedCompositeFieldContainer[Signer]
    def __init__(self, signers: _Optional[_Iterable[_Union[Signer, _Mapping]]] = ...) -> None: ...

class RebuildRegistryRequest(_message.Message):
    __slots__ = ("payloads", "receipts", "pin")
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    receipts: _containers.RepeatedScalarFieldContainer[str]
    pin: bytes
    def __init__(self, payloads: _Optional[_Iterable[bytes]] = ..., receipts: _Optional[_Iterable[str]] = ..., pin: _Optional[bytes] = ...) -> None: ...

class RebuildRegistryResponse(_message.Message):
    __slots__ = ("key_count",)
    KEY_COUNT_FIELD_NUMBER: _ClassVar[int]
    key_count: int
    def __init__(self, key_count: _Optional[int] = ...) -> None: ...

class RebuildRegistryStreamRequest(_message.Message):
    __slots__ = ("payloads", "receipts", "pin", "event_count")
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    receipts: _containers.RepeatedScalarFieldContainer[str]
    pin: bytes
    event_count: int
    def __init__(self, payloads: _Optional[_Iterable[bytes]] = ..., receipts: _Optional[_Iterable[str]] = ..., pin: _Optional[bytes] = ..., event_count: _Optional[int] = ...) -> None: ...

class RebuildRegistryStreamResponse(_message.Message):
    __slots__ = ("key_count",)
    KEY_COUNT_FIELD_NUMBER: _ClassVar[int]
    key_count: int
    def __init__(self, key_count: _Optional[int] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class GetJwksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetJwksResponse(_message.Message):
    __slots__ = ("jwks",)
    JWKS_FIELD_NUMBER: _ClassVar[int]
    jwks: bytes
    def __init__(self, jwks: _Optional[bytes] = ...) -> None: ...

class WatchKeysRequest(_message.Message):
    __slots__ = ("watcher",)
    WATCHER_FIELD_NUMBER: _ClassVar[int]
    watcher: str
    def __init__(self, watcher: _Optional[str] = ...) -> None: ...

class WatchKeysResponse(_message.Message):
    __slots__ = ("revision", "keys", "lease_ms", "open_events")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    OPEN_EVENTS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    lease_ms: int
    open_events: _containers.RepeatedCompositeFieldContainer[JournaledKeyEvent]
    def __init__(self, revision: _Optional[int] = ..., keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., lease_ms: _Optional[int] = ..., open_events: _Optional[_Iterable[_Union[JournaledKeyEvent, _Mapping]]] = ...) -> None: ...
