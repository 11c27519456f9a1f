"""The keys of a running service: what it signs with now, and which keys it still accepts.

A `KeyRing` watches the keys service (`WatchKeys`), opens the active key of each purpose it signs
for, and hands it out as one immutable object::

    ring = KeyRing("127.0.0.1:7001", ["witness"], open_signer=partial(open_by_uri, key_dir=keys))
    await ring.start()
    key = ring.current("witness")            # kid, epoch, thumbprint and signer belong together
    sig = await sign_witness_batch(key.signer, body_with(key.kid, key.epoch))

What happens when:

* another key becomes active: it is opened and tried (sign, verify) first, then swapped in; if it
  cannot be opened the draining one goes on, with an error in the log at every attempt;
* the keys service is away: we go on with what we last heard until its lease ends, then everything
  here is UNAVAILABLE until it is back;
* a key is revoked or its drain window ends: it is dropped at once.

Trusted: the keys service says which key is active; it cannot make us sign with a key that is not
the registered one, since thumbprints are compared. Left to others: what is signed
(`provledger.kms.signing`), where private keys are (`provledger.kms`).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol

import grpc

from provledger import logs, telemetry
from provledger._keyring_opened import OPEN_TIMEOUT_S, OpenedKeys, opened_as
from provledger._keyring_view import (
    MAX_CLOCK_LAG_NS,
    ActiveSigner,
    Snapshot,
    View,
    check_begin,
    no_active_key,
)
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.checkpoint import MAX_TREE_SIZE
from provledger.errors import (
    FailedPreconditionError,
    KMSError,
    NotFoundError,
    UnavailableError,
)
from provledger.key_events import Endorsement, EventType, KeyEvent
from provledger.keyset import KeyPurpose, KeySet
from provledger.kms import Signer
from provledger.kms.errors import KMSUnavailableError
from provledger.kms.signing import sign_key_event
from provledger.retry import RetryPolicy
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.tls import TLSSettings
from provledger.steady import steady_ns

__all__ = ["MAX_CLOCK_LAG_NS", "ActiveSigner", "KeyRing", "WatchStub"]

log = logs.get(__name__)

_FIRST_MESSAGE_S: Final = 10.0
# For news that reached others first: all watch the same changes.
_ANNOUNCED_S: Final = 2.0
_RECONNECT: Final = RetryPolicy(attempts=1_000_000, base_s=0.05, cap_s=1.0, budget_s=float("inf"))
_REOPEN: Final = RetryPolicy(attempts=1_000_000, base_s=0.5, cap_s=10.0, budget_s=float("inf"))


_PURPOSES_PB: Final = {
    KeyPurpose.WITNESS: pb.KEY_PURPOSE_WITNESS,
    KeyPurpose.CHECKPOINT: pb.KEY_PURPOSE_CHECKPOINT,
    KeyPurpose.HEAD: pb.KEY_PURPOSE_HEAD,
    KeyPurpose.RECEIPT: pb.KEY_PURPOSE_RECEIPT,
}


class WatchStub(Protocol):
    """The part of the generated `KeysServiceStub` that is used here."""

    @property
    def WatchKeys(self) -> Any:
        """The callable for WatchKeys."""
        ...


class KeyRing:
    """See the module's docstring. Belongs to one event loop.

    Args:
        keys: endpoint (`host:port`) or stub of the keys service.
        purposes: what this service signs for; empty for one that only asks `accepts`.
        open_signer: opens a key by its URI, such as `provledger.kms.open_signer` with a key_dir.
        clock: Unix nanoseconds, for validity.
        lease_clock: nanoseconds that never jump, for the lease.
        tls: our certificates, where `keys` is an endpoint with TLS.
        watcher: our name in the log of the keys service.
        overlap: purposes for which draining keys are kept open too, to sign beside the active one.
    """

    def __init__(
        self,
        keys: str | WatchStub,
        purposes: Iterable[KeyPurpose | str],
        open_signer: Callable[[str], Awaitable[Signer]],
        *,
        clock: Callable[[], int] = time.time_ns,
        lease_clock: Callable[[], int] = steady_ns,
        tls: TLSSettings | None = None,
        watcher: str = "",
        overlap: Iterable[KeyPurpose] = (),
    ) -> None:
        self._keys = keys
        self._purposes = tuple(KeyPurpose(purpose) for purpose in purposes)
        self._clock = clock
        self._lease_clock = lease_clock
        self._tls = tls
        self._watcher = watcher
        self._overlap = frozenset(overlap)
        self._instance = secrets.token_hex(8)
        self.log_sizes: Callable[[], Iterable[tuple[str, int]]] = tuple
        """Origins and sizes of the logs this service signs, for its reports; set by the anchor."""
        # Of logs whose size cannot be reported, as was told.
        self._unusable_sizes: dict[str, int] = {}
        self._snapshot = Snapshot(View(), {})
        self._opened = OpenedKeys(open_signer)
        # The active key of a purpose that could not be opened: its kid, and the reason.
        self._unusable: dict[KeyPurpose, tuple[str, str]] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._channel: grpc.aio.Channel | None = None
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    async def start(self) -> None:
        """Begin to watch; returns at once. Raises ConfigError for unusable TLS files."""
        stub: WatchStub
        if isinstance(self._keys, str):
            self._channel = channel(self._keys, self._tls)
            stub = keys_pb2_grpc.KeysServiceStub(self._channel)
        else:
            stub = self._keys
        self._tasks = [
            asyncio.create_task(self._watch(stub), name="keyring-watch"),
            asyncio.create_task(self._open_keys(), name="keyring-open"),
        ]
        if self._purposes and hasattr(stub, "ReportSigner"):
            self._tasks.append(asyncio.create_task(self._report(stub), name="keyring-report"))

    async def close(self) -> None:
        """Stop watching and release all keys."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._snapshot = Snapshot(View(), {})
        await self._opened.close()
        if self._channel is not None:
            await self._channel.close()

    def current(self, purpose: KeyPurpose | str) -> ActiveSigner:
        """Return the key to sign with now.

        Raises UnavailableError (KEY_LEASE_EXPIRED) when the keys service has not been heard for too
        long, (NO_ACTIVE_KEY) when there is no key for `purpose` that could be opened.
        """
        snapshot = self._leased()
        signer = snapshot.signers.get(KeyPurpose(purpose))
        if signer is None:
            raise no_active_key(purpose, *self._unusable.get(KeyPurpose(purpose), ()))
        if signer.not_after_ns is not None and self._clock() > signer.not_after_ns:
            raise no_active_key(purpose)
        return signer

    def all_current(self, purpose: KeyPurpose | str) -> tuple[ActiveSigner, ...]:
        """Return all keys to sign with now: the current one first, then draining ones.

        Raises as `current` does.
        """
        first = self.current(purpose)
        now_ns = self._clock()
        rest = self._snapshot.all_signers.get(KeyPurpose(purpose), ())
        return (
            first,
            *(
                each
                for each in rest
                if each.kid != first.kid
                and (each.not_after_ns is None or now_ns <= each.not_after_ns)
            ),
        )

    @property
    def view(self) -> View:
        """What the keys service last said."""
        return self._snapshot.view

    async def changed(self, timeout_s: float) -> None:
        """Wait until the keys service says something, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    async def endorse(self, event: KeyEvent, kid: str) -> Endorsement:
        """Sign a key event with a key of our purposes that is pending, active or draining.

        Refused is whatever is not in line with what the keys service announces: an event that it
        does not propose, or took back, one about a key of another purpose, or about a key that it
        says is another one; and one by which a key begins when our clock is not there by far.

        Raises NotFoundError (KEY_EVENT_NOT_FOUND), FailedPreconditionError (KEY_NOT_OURS),
        UnavailableError (KEY_LEASE_EXPIRED, KEY_NOT_USABLE, CLOCK_SKEW).
        """
        view = await self._view_with(event)
        keys = {key.kid: key for key in (*view.keys, *view.pending)}
        key = keys.get(kid)
        ours = key is not None and key.purpose in self._purposes
        if event.event is EventType.GENESIS:
            named = {each.kid: each.thumbprint for each in event.first_keys}
            ours = ours and key is not None and named.get(kid) == key.thumbprint
        else:
            about = keys.get(event.kid)
            ours = ours and key is not None and event.purpose == key.purpose
            ours = ours and (about is None or about.thumbprint == event.thumbprint)
            if event.event in (EventType.CREATED, EventType.ROTATED):
                ours = ours and about is not None
        if key is None or not ours:
            raise FailedPreconditionError(
                "KEY_NOT_OURS",
                f"key {kid!r} cannot endorse this event here: the keys service does not announce "
                "it, or the key the event is about, for a purpose of this service",
                metadata={"kid": kid},
            )
        check_begin(event, self._clock())
        try:
            signer = await self._opened.open(key, view.uris[kid])
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                with telemetry.span("key_event.sign", {telemetry.KID: kid}):
                    sig = await sign_key_event(signer, event)
        except (KMSError, TimeoutError) as error:
            log.error("keyring.not_endorsed", exc_info=error, kid=kid)
            because = getattr(error, "reason", KMSUnavailableError.reason)
            raise UnavailableError(
                "KEY_NOT_USABLE",
                f"key {kid!r} cannot be opened or does not sign ({because}); the log of this "
                "service says what its provider answered and what to do",
                metadata={"kid": kid, "because": because},
                retry_delay_s=1.0,
            ) from None
        return Endorsement(kid, key.thumbprint, sig)

    def accepts(self, purpose: KeyPurpose | str, kid: str, epoch: int) -> bool:
        """Say whether a signature by this key may be committed now: it is active or draining.

        Raises UnavailableError (KEY_LEASE_EXPIRED).
        """
        keys = self._leased().view.keys.for_purpose(purpose)
        now_ns = self._clock()
        return any(
            key.kid == kid
            and key.epoch == epoch
            and (key.not_after_ns is None or now_ns <= key.not_after_ns)
            for key in keys
        )

    def key_set(self) -> KeySet:
        """Return all keys that are active or draining, of every purpose.

        Raises UnavailableError (KEY_LEASE_EXPIRED).
        """
        return self._leased().view.keys

    async def wait_accepts(
        self, purpose: KeyPurpose | str, kid: str, epoch: int, timeout_s: float
    ) -> bool:
        """As `accepts`, but wait for the answer to become yes.

        During a rotation the signing service may hear of a new key a moment before we do.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.accepts(purpose, kid, epoch):
                    await self._changed.wait()
        return self.accepts(purpose, kid, epoch)

    async def wait_for(self, purpose: KeyPurpose | str, timeout_s: float) -> ActiveSigner:
        """Wait until there is a key to sign with; raises as `current` when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    with suppress(UnavailableError):
                        return self.current(purpose)
                    await self._changed.wait()
        return self.current(purpose)

    async def _view_with(self, event: KeyEvent) -> View:
        """What the keys service says, once it announces this event; raises NotFoundError.

        Whoever asks us to endorse it may have heard of it a moment before we do.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANNOUNCED_S):
                while not self._leased().view.announces(event):
                    await self._changed.wait()
        view = self._leased().view
        if not view.announces(event):
            raise NotFoundError(
                "KEY_EVENT_NOT_FOUND",
                "the keys service does not announce this key event: it never proposed it, took it "
                "back, or knows that it is in the key ledger",
                metadata={"digest": event.digest().hex()},
            )
        return view

    def _leased(self) -> Snapshot:
        snapshot = self._snapshot
        if self._lease_clock() > snapshot.view.lease_until_ns:
            heard = snapshot.view.revision >= 0
            raise UnavailableError(
                "KEY_LEASE_EXPIRED",
                "the keys service has not been heard "
                + ("for longer than its lease allows" if heard else "yet"),
                retry_delay_s=1.0,
            )
        return snapshot

    async def _watch(self, stub: WatchStub) -> None:
        """Keep a watch open for ever."""
        delays = _RECONNECT.delays(self._rng)
        failures = 0
        while True:
            failure: Exception | None = None
            try:
                async with aclosing(self._views(stub)) as views:
                    async for view in views:
                        self._publish(view)
                        delays, failures = _RECONNECT.delays(self._rng), 0
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
            except Exception as error:  # whatever it is, the next attempt may find it gone
                failure = error
            failures += 1
            # Watches end with their connections, every hour. Then once for each outage, not for
            # each attempt.
            if failures == 1:
                log.info("keyring.watch_ended", exc_info=failure)
            elif failures == 2:
                log.warning("keyring.cannot_watch", exc_info=failure)
            await asyncio.sleep(next(delays, 1.0))

    async def _views(self, stub: WatchStub) -> AsyncGenerator[View, None]:
        """Yield what one call of WatchKeys says, until it ends or falls silent."""
        call = stub.WatchKeys(pb.WatchKeysRequest(watcher=self._watcher))
        wait_s = _FIRST_MESSAGE_S
        try:
            while True:
                try:
                    async with asyncio.timeout(wait_s):
                        response = await call.read()
                except TimeoutError:
                    raise UnavailableError(
                        "KEYS_SILENT", f"the keys service was silent for {wait_s:.1f} s"
                    ) from None
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    # Nobody cancelled us: the channel of a certificate that has ended was closed
                    # under the call. Passed on, that would end the watch for good.
                    raise UnavailableError(
                        "KEYS_CHANNEL_CLOSED", "the connection to the keys service was closed"
                    ) from error
                if response is grpc.aio.EOF:
                    return
                yield View.from_pb(response, self._lease_clock())
                # Heartbeats come three times in a lease: missing two means a dead connection.
                wait_s = response.lease_ms * 0.0007
        finally:
            call.cancel()

    def _publish(self, view: View) -> None:
        """Make what the keys service said our view, at once: opening new keys comes later."""
        before, self._snapshot = self._snapshot, Snapshot.of(view, self._purposes, self._opened)
        for purpose, signer in self._snapshot.signers.items():
            old = before.signers.get(purpose)
            if old is None or old.kid != signer.kid:
                log.info(
                    "keyring.signing_with", purpose=purpose, kid=signer.kid, epoch=signer.epoch
                )
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _report(self, stub: Any) -> None:
        """Tell the keys service what we sign with, at every change and well within its lease."""
        failing = False
        while True:
            changed, snapshot = self._changed, self._snapshot
            if snapshot.view.revision >= 0:
                try:
                    request = pb.ReportSignerRequest(signer=self._signer_pb(snapshot))
                    # Only for progress and for retiring old keys: the next one comes soon anyway.
                    with suppress(grpc.RpcError):
                        await stub.ReportSigner(request, timeout=5.0)
                    failing = False
                except Exception as error:  # a fault of ours, of this report perhaps
                    if not failing:
                        log.error("keyring.not_reported", exc_info=error)
                    failing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(min(2.0, max(0.2, snapshot.view.lease_s / 3))):
                    while self._snapshot.signers == snapshot.signers:
                        await changed.wait()
                        changed = self._changed

    def _signer_pb(self, snapshot: Snapshot) -> pb.Signer:
        return pb.Signer(
            watcher=self._watcher,
            instance=self._instance,
            keys=[
                pb.SignerKey(purpose=_PURPOSES_PB[each.purpose], kid=each.kid, epoch=each.epoch)
                for each in snapshot.signers.values()
            ],
            log_sizes=self._log_sizes_pb(),
            time_ns=self._clock(),
        )

    def _log_sizes_pb(self) -> list[pb.LogSize]:
        """The sizes of logs, but for those that no log can have: with one, nothing is taken."""
        sizes = list(self.log_sizes())
        unusable = {origin: n for origin, n in sizes if not 0 <= n <= MAX_TREE_SIZE}
        for origin, size in unusable.items():
            if self._unusable_sizes.get(origin) != size:
                log.error("keyring.log_size_unusable", origin=origin, size=size)
        self._unusable_sizes = unusable
        return [
            pb.LogSize(origin=origin, size=size)
            for origin, size in sizes
            if 0 <= size <= MAX_TREE_SIZE
        ]

    async def _open_keys(self) -> None:
        """Open whatever should be open and is not, for ever."""
        delays = _REOPEN.delays(self._rng)
        while True:
            # Both taken before opening, which takes time: what changes meanwhile is not missed.
            changed, revision = self._changed, self._snapshot.view.revision
            failed = False
            for purpose in self._purposes:
                failed |= not await self._open_best(purpose)
            if not failed:
                delays = _REOPEN.delays(self._rng)
            timeout_s = next(delays, 10.0) if failed else None
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    # A heartbeat is no reason to try again at once, a new revision is.
                    while self._snapshot.view.revision == revision:
                        await changed.wait()
                        changed = self._changed

    async def _open_best(self, purpose: KeyPurpose) -> bool:
        """Open the active key, or else one that drains; say whether it was the active one.

        Where keys overlap, all are opened; one that drains may then be missing.
        """
        view = self._snapshot.view
        best: int | None = None
        for index, key in enumerate(view.candidates(purpose)):
            if opened_as(key, view.uris[key.kid]) not in self._opened:
                try:
                    await self._opened.open(key, view.uris[key.kid])
                except Exception as error:  # adapters differ in what else they let through
                    log.error(
                        "keyring.key_not_usable",
                        exc_info=error,
                        kid=key.kid,
                        purpose=purpose,
                        state=key.state,
                    )
                    if index == 0:
                        reason = getattr(error, "reason", KMSUnavailableError.reason)
                        self._unusable[purpose] = key.kid, reason
                    continue
                # The view may have moved on meanwhile; the newest one decides.
                self._publish(self._snapshot.view)
            best = index if best is None else best
            if index == 0:
                self._unusable.pop(purpose, None)
            if purpose not in self._overlap:
                break
        return best == 0 or not view.candidates(purpose)
