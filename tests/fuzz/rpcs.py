"""Every RPC of every service: any bytes as a request, to the service's own servicer.

What stands behind a servicer is not there: storage and other services raise `ReachedError` as soon
as they are asked, so that a request goes through every check of form, and no further. The keys
service is there whole, but for its database: its decisions are pure.

Targets are made from the contracts' descriptors, so that an RPC that is added has one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2

from anchor_svc.servicer import AnchorServicer
from anchor_svc.state import LogIdentity
from keys_svc.registry import Registry
from keys_svc.servicer import KeysServicer
from ledger_svc.chain import LedgerInfo
from ledger_svc.gate import Gate
from ledger_svc.outcomes import Outcome
from ledger_svc.servicer import LedgerServicer, Parts
from ledger_svc.unread import Unread
from provledger import names, policy
from provledger.errors import ProvledgerError, StatusError
from provledger.key_events import KeyEvent
from tests.fuzz import key_registries
from tests.fuzz.registering import target
from tests.support.good_requests import SERVICES
from witness_svc import checks
from witness_svc import convert as witness_convert
from witness_svc.servicer import WitnessServicer

NOW_NS: Final = key_registries.NOW_NS
MAX_MESSAGES: Final = 3
_UNTYPED: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
_UNTYPED_CODES: Final = frozenset({code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS})


class ReachedError(BaseException):
    """A request passed every check. No `Exception`, so that nobody takes it for one of a draft."""


class _Behind:
    """What is asked when all checks are done, whatever of it."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: object, **options: object) -> Any:
        raise ReachedError


BEHIND: Final[Any] = _Behind()


# --- the ledger service --------------------------------------------------------------------------


class _Directory:
    async def get(self, name: str, field: str) -> LedgerInfo:
        tenant, ledger = names.parse_ledger_name(name, field)
        return LedgerInfo(bytes(16), tenant, ledger, "blake3", "logs/-", "log.test/1", 1)


class _Appender:
    async def append(self, ledger: LedgerInfo, items: Sequence[Any]) -> list[Outcome]:
        """As the witness does: refuse each draft by itself."""
        errors: list[Outcome] = []
        for item in items:
            try:
                checks.check(witness_convert.draft_from_pb(item.draft))
            except ProvledgerError as error:
                errors.append(error)
        if not errors:
            raise ReachedError
        return [errors[index % len(errors)] for index in range(len(items))]


def _ledger() -> LedgerServicer:
    gate = Gate(
        max_bytes=2**30, target_s=1.0, small_calls=100, small_by_time=True, tenant_streams=10
    )
    appender: Any = _Appender()
    directory: Any = _Directory()
    parts = Parts(
        storage=BEHIND,
        directory=directory,
        appender=appender,
        reads=BEHIND,
        progress=BEHIND,
        maker=BEHIND,
        anchor=BEHIND,
        gate=gate,
        unread=Unread(2**30),
        guard=BEHIND,
    )
    return LedgerServicer(parts)


# --- the anchor service --------------------------------------------------------------------------


class _Policies:
    def __getattr__(self, name: str) -> Any:
        return BEHIND

    async def set(self, tenant: str, text: bytes, *args: object, **options: object) -> Any:
        if text:
            policy.parse_policy(text)
        raise ReachedError


class _Ring:
    async def endorse(self, event: KeyEvent, kid: str) -> Any:
        event.encode()
        raise ReachedError


async def _watch(**options: object) -> AsyncIterator[Any]:
    raise ReachedError
    yield


def _anchor() -> AnchorServicer:
    identity = LogIdentity(bytes(16), "log.test/1", "blake3")
    state = SimpleNamespace(
        published_size=2**62, check_held=lambda: None, held=None, promise=BEHIND
    )
    log = SimpleNamespace(
        identity=identity,
        state=state,
        store=SimpleNamespace(read_file=BEHIND),
        reader=BEHIND,
        receipts=BEHIND,
        relays=BEHIND,
        submit=BEHIND,
        watch=_watch,
        policies=_Policies(),
    )
    logs: Any = SimpleNamespace(
        get=lambda uid: log,
        all=lambda: (),
        damaged=lambda: (),
        lost=lambda: (),
        create=BEHIND,
        ledger_count=BEHIND,
        check_held=lambda: None,
    )
    keys: Any = SimpleNamespace(current=BEHIND)
    ring: Any = _Ring()
    return AnchorServicer(logs, keys, ring)


# --- the keys service ----------------------------------------------------------------------------


class _Live:
    """A registry that never changes: each request meets the same one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def load(self) -> Registry:
        return self._registry

    async def update(self, decide: Callable[[Registry], Registry]) -> Registry:
        made = decide(self._registry)
        made.key_set(NOW_NS).encode()
        return made

    async def snapshots(self, heartbeat_s: float) -> AsyncIterator[Registry]:
        yield self._registry


def _keys(registry: Registry) -> KeysServicer:
    live: Any = _Live(registry)
    # A receipt that is far ahead of the clock is none yet.
    now_ns = names.receipt_time_ns(key_registries.RECEIPT_NAME)
    return KeysServicer(live, drain_ns=1000, lease_ms=30_000, clock=lambda: now_ns)


# --- the witness service -------------------------------------------------------------------------


class _Witness:
    async def witness(self, place: Any, items: Any, count: int, *, system: bool = False) -> Any:
        for item in items:
            try:
                names.receipt_id_text(item.receipt_id)
                checks.check(item.draft)
            except ProvledgerError:
                continue
        raise ReachedError


def _witness() -> WitnessServicer:
    witness: Any = _Witness()
    ring: Any = _Ring()
    return WitnessServicer(witness, clock=lambda: NOW_NS, max_items=1000, ring=ring)


# --- the targets ---------------------------------------------------------------------------------

SERVICERS: Final[dict[str, list[Any]]] = {
    "ledger": [_ledger()],
    "anchor": [_anchor()],
    "keys": [_keys(registry) for registry in key_registries.ALL],
    "witness": [_witness()],
}


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def rpc(service: str, method: Any) -> None:
    """Register an RPC as `rpc_{service}_{method}`."""
    kind = GetMessageClass(method.input_type)

    def run(data: bytes) -> None:
        request = kind()
        try:
            request.ParseFromString(data)
        except DecodeError:
            return
        refused: list[ProvledgerError] = []
        for servicer in SERVICERS[service]:
            try:
                _loop().run_until_complete(_call(getattr(servicer, method.name), method, request))
            except ReachedError:
                pass
            except ProvledgerError as error:
                refused.append(error)
        for each in refused:
            assert not isinstance(each, StatusError) or each.code not in _UNTYPED, each
        if len(refused) == len(SERVICERS[service]):
            raise refused[-1]

    run.__name__ = f"rpc_{service}_{method.name}"
    target(run)


async def _call(handler: Any, method: Any, request: Any) -> None:
    context = SimpleNamespace(time_remaining=lambda: None)
    given = _once(request) if method.client_streaming else request
    if not method.server_streaming:
        _check_results(await handler(given, context))
        return
    count = 0
    async for response in handler(given, context):
        _check_results(response)
        count += 1
        if count == MAX_MESSAGES:
            break


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


def _check_results(response: Any) -> None:
    """What is refused by itself, within an answer, is refused by an error of ours too."""
    for name in ("results", "result"):
        if name not in response.DESCRIPTOR.fields_by_name:
            continue
        found = getattr(response, name)
        for result in found if name == "results" else [found]:
            assert result.error.code not in _UNTYPED_CODES, result.error


for _service, _descriptor in SERVICES.items():
    for _method in _descriptor.methods:
        rpc(_service, _method)
