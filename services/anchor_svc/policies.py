"""The policies of a log and of tenants in it: set while the service runs, and kept, every version.

Which one holds for a tenant: its own, else the log's, else that of the settings' file, else none,
and then every sink of the settings must hold a checkpoint. Sinks that only some policy names are
opened and closed with it; all of them get every published checkpoint.

A policy that is stored but cannot be used any more, because a certificate's file is gone, say, does
not keep the service from starting: nothing meets it, and it is said loudly.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from anchor_svc.opening import check_meetable, check_usable, prove, sinks_for
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
from provledger.policy import Policy, parse_policy
from provledger.settings import ConfigError

log = logs.get(__name__)

MAX_POLICIES: Final = 1000
"""Tenants with a policy of their own, in one log."""


class Policies:
    """Policies of one log. Belongs to one event loop.

    sinks: those of the settings and of their policy file, `given`.
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
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._relays = relays
        self._base = {sink.uri: sink for sink in sinks}
        self._given = given
        self._epoch = epoch
        self._clock = clock
        self._lock = asyncio.Lock()
        # The newest version by tenant, those that took a policy back included.
        self._rows: dict[str, PolicyRow] = {}

    async def open(self) -> None:
        """Read what was set, and have it hold."""
        rows = {row.tenant: row for row in await self._storage.policies(self._log.uid)}
        usable = dict(self._base)
        for row in rows.values():
            try:
                policy = None if not row.text else parse_policy(row.text)
                usable = sinks_for([policy], usable)
            except (ConfigError, PolicyError) as error:
                log.error("anchor.policy_unusable", exc_info=error, tenant=row.tenant)
        await self._hold(rows, usable)

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
                or names sinks that cannot be used.
            AbortedError: POLICY_CHANGED, it is not at the expected version.
            FailedPreconditionError: TOO_MANY_POLICIES.
            StatusError: it could not be stored.
        """
        async with self._lock:
            sinks, opened = await self._check(tenant, text)
            try:
                row, changed = await self._decide(
                    tenant, text, set_by, expected_version, validate_only=validate_only
                )
                if row.text != text:
                    for sink in opened:
                        await sink.close()
                    sinks, opened = await self._check(tenant, row.text)
                if changed:
                    await self._hold({**self._rows, tenant: row}, sinks)
                    opened = []
            finally:
                for sink in opened:
                    await sink.close()
            if row.text != text:
                raise _changed(row.version)
            return row

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
        known = {**self._base, **{sink.uri: sink for sink in self._relays.sinks}}
        opened: list[AnchorSink] = []
        try:
            policy = parse_policy(text) if text else None
            sinks = dict(self._base)
            for other in others:
                # One that became unusable is no reason to refuse another.
                with suppress(ConfigError, PolicyError):
                    sinks = sinks_for([parse_policy(other)], sinks, known)
            sinks = sinks_for([policy], sinks, known)
            opened = [sink for uri, sink in sinks.items() if known.get(uri) is not sink]
            check_meetable(policy, sinks.values())
            check_usable(list(sinks.values()), policy, self._log.suite)
            await prove(opened)
        except (ConfigError, PolicyError) as error:
            for sink in opened:
                await sink.close()
            raise invalid("text", str(error)) from error
        return sinks, opened

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
        """Make promises of what was set, and find out how far each is kept."""
        before = self._state.promises
        quorums: dict[bytes, Quorum] = {}
        promises = {"": Promise("", Quorum(self._given, self._base))}
        for tenant, row in rows.items():
            if not row.text:
                continue
            quorum = quorums.get(row.text)
            if quorum is None:
                quorum = quorums[row.text] = Quorum(parse_policy(row.text), self._base)
            promises[tenant] = Promise(tenant, quorum)
        for tenant, promise in promises.items():
            old, row_before = before.get(tenant), self._rows.get(tenant)
            if old is not None and row_before == rows.get(tenant):
                promise.anchored, promise.overdue = old.anchored, old.overdue
        self._rows = dict(rows)
        self._state.set_promises(promises)
        await self._relays.use(list(sinks.values()))
        await self._relays.anchored.find()


def _changed(version: int) -> AbortedError:
    return AbortedError(
        "POLICY_CHANGED",
        f"the policy is at version {version}; read it again",
        metadata={"version": str(version)},
    )
