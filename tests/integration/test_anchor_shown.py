"""Whose receipts show what a sink returned: everybody's, or those of the tenant that named it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.sinks import open_sink
from anchor_svc.storage import PolicyRow
from tests.integration.test_anchor_policies import ACME, copies, grow
from tests.integration.test_anchor_quorum import _hurry
from tests.support.anchoring import Ledger, eventually, running_log
from tests.support.chain import START_NS

pytestmark = pytest.mark.timeout(60)


async def relayed(log: OpenLog, size: int) -> None:
    """Wait until every sink has the checkpoint of this size."""
    await eventually(lambda: {*log.relays._cursors.values()} == {size})


async def test_each_tenant_is_shown_what_its_own_sinks_returned(tmp_path: Path) -> None:
    """The sinks of others are theirs, and a thousand of them would not fit into a receipt."""
    ledger = Ledger()
    base = open_sink(f"file://{tmp_path}/base")
    async with running_log(
        f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=[base], background=True, prepare=_hurry
    ) as log:
        for tenant, name in ((ACME, "a"), ("tenants/other", "b"), ("", "log")):
            await log.policies.set(tenant, copies(tmp_path, name), "alice")
        size = await grow(log, ledger)
        await relayed(log, size)
        shown = {}
        for tenant in (ACME, "tenants/other", "tenants/third", ""):
            proven = await log.reader.inclusion(0, size, tenant)
            assert proven.anchored
            shown[tenant] = {Path(row.sink).name for row in proven.evidence}
        assert shown == {
            ACME: {"base", "log", "a"},
            "tenants/other": {"base", "log", "b"},
            "tenants/third": {"base", "log"},
            "": {"base", "log"},
        }


async def test_what_a_sink_returned_stays_with_its_tenant_when_the_policy_goes(
    database_url: str, tmp_path: Path
) -> None:
    """Replaced or taken back, over a start, and also if no version of ours can read it any more."""
    ledger = Ledger()
    options: dict[str, Any] = {"background": True, "prepare": _hurry}

    async def shown(log: OpenLog, tenant: str = "tenants/third") -> set[str]:
        proven = await log.reader.inclusion(0, size, tenant)
        return {Path(row.sink).name for row in proven.evidence}

    sinks = [open_sink(f"file://{tmp_path}/base")]
    async with running_log(database_url, tmp_path, sinks=sinks, **options) as log:
        await log.policies.set("", copies(tmp_path, "log"), "alice")
        # One that is the log's as well is everybody's.
        await log.policies.set("tenants/other", copies(tmp_path, "b", "log"), "alice")
        await log.policies.set(ACME, copies(tmp_path, "a"), "alice")
        size = await grow(log, ledger)
        await relayed(log, size)
        await log.policies.set(ACME, copies(tmp_path, "later"), "alice")
        assert await shown(log) == {"base", "log"}
        assert await shown(log, ACME) - {"later"} == {"base", "log", "a"}
        for tenant in (ACME, "tenants/other", ""):
            await log.policies.set(tenant, b"", "alice")
            assert await shown(log) == {"base", "log"}
            assert await shown(log, ACME) - {"later"} == {"base", "log", "a"}
        assert await shown(log, "tenants/other") == {"base", "log", "b"}
        unreadable = PolicyRow(ACME, 4, copies(tmp_path, "c") + b"newer x\n", START_NS, "alice")
        storage, uid = log.policies._storage, log.identity.uid
        assert await storage.add_policy(uid, log.committer.epoch, unreadable)
        row = (await storage.evidence(uid, size))[0]
        await storage.add_anchor(uid, replace(row, sink=f"file://{tmp_path}/c"))
    again = [open_sink(f"file://{tmp_path}/base")]
    async with running_log(database_url, tmp_path, sinks=again, **options) as log:
        assert await shown(log) == {"base", "log"}
        # Whose they were sees them, also under another policy.
        assert await shown(log, ACME) - {"later"} == {"base", "log", "a", "c"}
        await log.policies.set(ACME, copies(tmp_path, "a"), "alice")
        assert await shown(log, ACME) - {"later"} == {"base", "log", "a", "c"}
        assert await shown(log, "tenants/other") == {"base", "log", "b"}
        assert await shown(log) == {"base", "log"}


async def test_what_a_sink_of_the_settings_returned_stays_everybodys(
    database_url: str, tmp_path: Path
) -> None:
    """Also when a tenant names it, and the settings do so no more."""
    ledger = Ledger()
    options: dict[str, Any] = {"background": True, "prepare": _hurry}
    for names in (("base", "left"), ("base",), ("base", "new")):
        sinks = [open_sink(f"file://{tmp_path}/{name}") for name in names]
        async with running_log(database_url, tmp_path, sinks=sinks, **options) as log:
            if "left" in names:
                size = await grow(log, ledger)
                await relayed(log, size)
            else:
                await log.policies.set(ACME, copies(tmp_path, "left"), "alice")
            proven = await log.reader.inclusion(0, size, "tenants/third")
            shown = {Path(row.sink).name for row in proven.evidence}
            assert shown - {"new"} == {"base", "left"}
            assert len(log.policies.tenants()) == ("left" not in names)
