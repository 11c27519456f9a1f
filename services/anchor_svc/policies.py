"""The policies of a log and of tenants in it: set while the service runs, and kept, every version.

Which one holds for a tenant: its own, else the log's, else that of the settings' file, else none,
and then every sink of the settings must hold a checkpoint. Sinks that only some policy names are
opened and closed with it; all of them get every published checkpoint.

Since when the settings' file says what it says is stored like a policy, under a name of its own:
the sinks that it names first have the time that it allows, which no start gives them again.

What is stored holds, whatever becomes of the call that set it. It goes on when the caller is gone;
and what could not be done, or is not known to be done, because the database is away, is done in the
background as soon as it is back, or by the same call made again.

A policy that is stored but cannot be used any more, because a certificate's file is gone, say, or
because another version wrote it, does not keep the service from starting: nothing meets it, and it
is said loudly.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from anchor_svc.namedsinks import SETTINGS, SETTINGS_SINKS, NamedSinks
from anchor_svc.opening import (
    check_few,
    check_meetable,
    check_remembered,
    check_usable,
    close_sinks,
    prove,
    sinks_for,
)
from anchor_svc.quorum import Quorum
from anchor_svc.relay import Relays
from anchor_svc.sinks import AnchorSink
from anchor_svc.state import LogIdentity, LogState, Promise
from anchor_svc.storage import FencedError, PolicyRow, Storage
from anchor_svc.submission import invalid
from provledger import logs
from provledger.errors import (
    AbortedError,
    FailedPreconditionError,
    NotFoundError,
    PolicyError,
    UnavailableError,
)
from provledger.policy import Group, Policy, parse_policy
from provledger.retry import RetryPolicy
from provledger.settings import ConfigError

log = logs.get(__name__)

_RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.5, cap_s=10.0, budget_s=float("inf"))

_CLOSED: Final = re.compile(rb"^[ \t]*mode[ \t]+fail-closed[ \t]*$", re.MULTILINE)

MAX_POLICIES: Final = 1000
"""Tenants with a policy of their own, in one log."""


class Policies:
    """Policies of one log. Belongs to one event loop.

    sinks: those of the settings and of their policy file, `given`. waits: whether each start waits
    for sinks to confirm it (`anchor_svc.restored`), which policies must allow then. deadline_s: how
    long a sink that is new has to prove itself.
    """

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        relays: Relays,
        sinks: Sequence[AnchorSink],
        given: Policy | None,
        *,
        epoch: Callable[[], int],
        clock: Callable[[], int],
        deadline_s: float,
        waits: bool = False,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._relays = relays
        self._base = {sink.uri: sink for sink in sinks}
        self._named = NamedSinks(self._base)
        self._given = given
        self._epoch = epoch
        self._clock = clock
        self._deadline_s = deadline_s
        self._waits = waits
        self._lock = asyncio.Lock()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._retry = _RETRY
        # The newest version by tenant that holds, those that took a policy back included.
        self._rows: dict[str, PolicyRow] = {}
        # Since when the settings' file is as it is.
        self._given_since_ns = 0
        # Tenants of whom something may be stored that does not hold yet.
        self._unsettled: set[str] = set()
        # Calls that go on, perhaps without their caller; the task that settles what they left.
        self._calls: set[asyncio.Task[PolicyRow]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Read what was set, and have it hold. Raises StatusError."""
        versions = await self._storage.policies(self._log.uid)
        for version in versions:
            self._named.add(version)
        rows = {row.tenant: row for row in versions}
        self._given_since_ns = await self._since_given(rows.pop(SETTINGS, None))
        await self._store_given_sinks(rows.pop(SETTINGS_SINKS, None))
        usable, known = dict(self._base), self._known()
        try:
            for row in rows.values():
                try:
                    policy = None if not row.text else parse_policy(row.text)
                    usable = sinks_for([policy], usable, known)
                except (ConfigError, PolicyError) as error:
                    log.error("anchor.policy_unusable", exc_info=error, tenant=row.tenant)
            self._tell_unconfirmable(rows.values(), list(usable.values()))
            await self._hold(rows, usable)
        finally:
            await self._close_unused(usable.values())
        self._unsettled.clear()

    async def _since_given(self, newest: PolicyRow | None) -> int:
        """Since when the settings' file says what it says, noted if that is since this start."""
        text = b"" if self._given is None else self._given.text
        if newest is None and not text:
            return 0
        if newest is None or newest.text != text:
            version = 1 if newest is None else newest.version + 1
            newest = await self._store(PolicyRow(SETTINGS, version, text, self._clock(), SETTINGS))
        return newest.set_at_ns

    async def _store_given_sinks(self, newest: PolicyRow | None) -> None:
        """Have it known for later that these are of the log, whatever the settings say then."""
        text = self._named.unstored()
        if text:
            version = 1 if newest is None else newest.version + 1
            row = PolicyRow(SETTINGS_SINKS, version, text, self._clock(), SETTINGS)
            self._named.add(await self._store(row))

    def _tell_unconfirmable(self, rows: Iterable[PolicyRow], sinks: Sequence[AnchorSink]) -> None:
        """Say which policies, set while no start waited, keep this one waiting for ever."""
        for row in rows:
            if row.text and self._waits:
                try:
                    check_remembered(sinks, parse_policy(row.text))
                except ConfigError as error:
                    log.error("anchor.policy_unconfirmable", exc_info=error, tenant=row.tenant)
                except PolicyError:
                    continue  # told already; nothing meets it

    async def close(self) -> None:
        """End what goes on; the next start does the rest."""
        self._closed = True
        tasks = [task for task in (*self._calls, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def set(
        self,
        tenant: str,
        text: bytes,
        set_by: str,
        *,
        expected_version: int | None = None,
        validate_only: bool = False,
    ) -> PolicyRow:
        """Have a policy hold from now on; the same one again changes nothing.

        tenant: empty for the log. text: empty to take it back.

        Raises:
            InvalidArgumentError: naming the field, for a text that is no policy, can never be met,
                names sinks that cannot be used, or can be met without those that remember while
                each start waits for them.
            AbortedError: POLICY_CHANGED, it is not at the expected version.
            FailedPreconditionError: TOO_MANY_POLICIES.
            StatusError: it could not be stored, or does not hold yet. Making the same call again
                is safe, and whatever was stored will hold without it, too.
        """
        await self._lock.acquire()
        # A call that ends half-way, with its caller's deadline, would leave what is stored and what
        # holds two things.
        call = asyncio.create_task(
            self._set(tenant, text, set_by, expected_version, validate_only=validate_only)
        )
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return await asyncio.shield(call)

    async def _set(
        self,
        tenant: str,
        text: bytes,
        set_by: str,
        expected_version: int | None,
        *,
        validate_only: bool,
    ) -> PolicyRow:
        sinks, opened = await self._check(tenant, text)
        try:
            row, changed = await self._decide(
                tenant, text, set_by, expected_version, validate_only=validate_only
            )
            if row.text != text:
                await self._close_unused(opened)
                sinks, opened = await self._check(tenant, row.text)
            if changed or (tenant in self._unsettled and not validate_only):
                self._named.add(row)
                await self._hold({**self._rows, tenant: row}, sinks)
                self._unsettled.discard(tenant)
        finally:
            await self._close_unused(opened)
        if row.text != text:
            raise _changed(row.version)
        return row

    def _ended(self, call: asyncio.Task[PolicyRow]) -> None:
        self._calls.discard(call)
        self._lock.release()
        if not call.cancelled():
            call.exception()  # perhaps nobody is there any more to hear of it
        if self._unsettled and self._settling is None and not self._closed:
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        """Have what is stored hold, again and again until it does."""
        delays = self._retry.delays(self._rng)
        while self._unsettled:
            await asyncio.sleep(next(delays, self._retry.cap_s))
            async with self._lock:
                try:
                    if self._unsettled:
                        await self.open()
                except Exception as error:
                    tenants = sorted(self._unsettled)
                    log.error("anchor.policy_not_held", exc_info=error, tenants=tenants)
        self._settling = None

    async def _decide(
        self,
        tenant: str,
        text: bytes,
        set_by: str,
        expected_version: int | None,
        *,
        validate_only: bool,
    ) -> tuple[PolicyRow, bool]:
        """The version that a checked policy becomes, stored, and whether it is a new one.

        It may be another policy: one that a call stored before which never heard so.
        """
        newest = self._rows.get(tenant) or PolicyRow(tenant, 0, b"", 0, "")
        if (newest.text, newest.set_by, newest.version - 1) == (text, set_by, expected_version):
            return newest, False  # the same call again, whose answer was lost
        if expected_version not in (None, newest.version):
            raise _changed(newest.version)
        if newest.text == text:
            return newest, False
        row = PolicyRow(tenant, newest.version + 1, text, self._clock(), set_by)
        if validate_only:
            return row, False
        if not newest.version and len(self._rows) >= MAX_POLICIES:
            raise FailedPreconditionError(
                "TOO_MANY_POLICIES", f"a log has at most {MAX_POLICIES:,} policies"
            )
        self._unsettled.add(tenant)
        row = await self._store(row)
        log.warning(
            "anchor.policy_set",
            log=self._log.name,
            tenant=tenant,
            version=row.version,
            by=set_by,
            sha256=hashlib.sha256(text).hexdigest(),
        )
        return row, True

    async def version(self, tenant: str, version: int) -> PolicyRow:
        """An earlier version; raises NotFoundError."""
        row = await self._storage.policy(self._log.uid, tenant, version)
        if row is None:
            raise NotFoundError("POLICY_NOT_FOUND", f"there is no version {version} of this policy")
        return row

    def holding(self, tenant: str) -> PolicyRow | None:
        """The version that holds for a tenant, its own or the log's; None if none was set."""
        for name in (tenant, ""):
            row = self._rows.get(name)
            if row is not None and row.text:
                return row
        return None

    def newest(self, tenant: str) -> PolicyRow | None:
        """The newest version for exactly this tenant, even if it took the policy back."""
        return self._rows.get(tenant)

    def tenants(self) -> list[str]:
        """Tenants with a policy of their own, in order."""
        return sorted(tenant for tenant, row in self._rows.items() if tenant and row.text)

    async def _check(
        self, tenant: str, text: bytes
    ) -> tuple[dict[str, AnchorSink], list[AnchorSink]]:
        """Check a policy's text; the sinks that are wanted with it, and those opened for it."""
        others = [row.text for name, row in self._rows.items() if name != tenant and row.text]
        known = self._known()
        opened: list[AnchorSink] = []
        try:
            policy = parse_policy(text) if text else None
            check_few(policy, self._base)
            sinks = dict(self._base)
            for other in others:
                # One that became unusable is no reason to refuse another.
                with suppress(ConfigError, PolicyError):
                    sinks = sinks_for([parse_policy(other)], sinks, known)
            sinks = sinks_for([policy], sinks, known)
            opened = [sink for uri, sink in sinks.items() if known.get(uri) is not sink]
            check_meetable(policy, sinks.values())
            if self._waits and policy is not None:
                check_remembered(list(sinks.values()), policy)
            check_usable(list(sinks.values()), policy, self._log.suite)
            await prove(opened, self._deadline_s)
        except BaseException as error:
            await self._close_unused(opened)
            if isinstance(error, ConfigError | PolicyError):
                raise invalid("text", str(error)) from error
            raise
        return sinks, opened

    def _known(self) -> dict[str, AnchorSink]:
        return {**self._base, **{sink.uri: sink for sink in self._relays.sinks}}

    async def _close_unused(self, sinks: Iterable[AnchorSink]) -> None:
        """Close those that nothing is relayed to; the relays close the others when they go."""
        used = {id(sink) for sink in self._relays.sinks}
        await close_sinks(sink for sink in sinks if id(sink) not in used)

    async def _store(self, row: PolicyRow) -> PolicyRow:
        """Store a version; the one that is there then, which may be an earlier attempt's."""
        try:
            stored = await self._storage.add_policy(self._log.uid, self._epoch(), row)
        except FencedError as error:
            raise UnavailableError(
                "WRITER_FENCED", "another process writes to this log now; ask that one"
            ) from error
        return row if stored else await self.version(row.tenant, row.version)

    async def _hold(self, rows: Mapping[str, PolicyRow], sinks: Mapping[str, AnchorSink]) -> None:
        """Relay to the sinks, make promises of what was set, and find out how far each is kept.

        Raises:
            StatusError: it could not be done; nothing holds yet that asks for another sink.
        """
        promises = self._promises(rows)
        await self._relays.use(list(sinks.values()))
        self._rows = dict(rows)
        self._state.set_promises(promises, self._named.foreign())
        await self._relays.anchored.find()

    def _promises(self, rows: Mapping[str, PolicyRow]) -> dict[str, Promise]:
        """What rows promise. Whose policy is the same keeps its promise itself, not a copy: what is
        found out about it meanwhile must not be lost."""
        before = self._state.promises
        texts = {"": b"", **{tenant: row.text for tenant, row in rows.items()}}
        promises = {
            tenant: before[tenant]
            for tenant in texts
            if tenant in before and rows.get(tenant) == self._rows.get(tenant)
        }
        # Tenants with the same policy share what says when it is met.
        quorums = {texts[tenant]: promise.quorum for tenant, promise in promises.items()}
        quorums.setdefault(b"", Quorum(self._given, self._base))
        for tenant, text in texts.items():
            if tenant in promises or (tenant and not text):
                continue
            if text not in quorums:
                quorums[text] = Quorum(_stored_policy(text), self._base)
            since_ns = rows[tenant].set_at_ns if tenant in rows else 0
            promises[tenant] = Promise(tenant, quorums[text], since_ns=since_ns)
        if not texts[""]:
            promises[""].since_ns = max(promises[""].since_ns, self._given_since_ns)
        return promises


def _stored_policy(text: bytes) -> Policy:
    """The policy of a stored text; of one that cannot be read, a policy that nothing meets.

    It is not read by half. But whoever asked for nothing rather than too little gets that, at once.
    """
    try:
        return parse_policy(text)
    except PolicyError:
        nothing = Group("unreadable", 1, ())
        closed = _CLOSED.search(text) is not None
        return Policy(
            groups={nothing.name: nothing},
            quorum=nothing.name,
            within_s=1 if closed else None,
            fail_closed=closed,
            text=text,
        )


def _changed(version: int) -> AbortedError:
    return AbortedError(
        "POLICY_CHANGED",
        f"the policy is at version {version}; read it again",
        metadata={"version": str(version)},
    )
