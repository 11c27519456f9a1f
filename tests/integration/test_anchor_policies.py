"""Policies set while the anchor runs: for a log, for tenants in it, over gRPC and over restarts."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.opening import open_sinks
from anchor_svc.openlog import OpenLog
from anchor_svc.policies import MAX_POLICIES
from anchor_svc.sinks import open_sink
from anchor_svc.storage import PolicyRow
from anchor_svc.tilefiles import DirectoryFiles
from provledger import note
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import AbortedError, InvalidArgumentError, NotFoundError, UnavailableError
from provledger.policy import parse_policy
from provledger.retry import RetryPolicy
from provledger.settings import ConfigError
from tests.integration.test_anchor_quorum import _hurry
from tests.integration.test_anchor_service import ANY, anchor_on
from tests.support.anchoring import Ledger, eventually, running_log, submit
from tests.support.chain import START_NS
from tests.support.metered import metered

pytestmark = pytest.mark.timeout(60)

ACME = "tenants/acme"
NO_URL = note.format_vkey("example.org", note.COSIGNATURE_ED25519, bytes(range(32)))


def copies(directory: Path, *names: str, mode: str = "") -> bytes:
    """A policy that asks for a copy in each of these directories."""
    lines = [f"sink {name} file://{directory / name}" for name in names]
    lines += [f"group all-of-them all {' '.join(names)}", "quorum all-of-them"]
    return "\n".join([*lines, *([mode] if mode else []), ""]).encode()


async def grow(log: OpenLog, ledger: Ledger, count: int = 2) -> int:
    """Log some more; the size that covers it."""
    start = len(ledger.entries)
    ledger.grow(count)
    return (await submit(log, ledger, start)).tree_size


async def test_each_tenant_has_what_its_policy_asks_for(database_url: str, tmp_path: Path) -> None:
    """The log's sink works; acme asks for one more, which is in the way of itself."""
    ledger = Ledger()
    (tmp_path / "second").write_text("in the way")
    options: dict[str, Any] = {"background": True, "prepare": _hurry}
    base = open_sink(f"file://{tmp_path}/first")
    async with running_log(database_url, tmp_path, sinks=[base], **options) as log:
        row = await log.policies.set(ACME, copies(tmp_path, "first", "second"), "alice")
        assert (row.version, row.set_by, row.set_at_ns) == (1, "alice", START_NS)
        size = await grow(log, ledger)
        await eventually(lambda: log.state.anchored_size == size)
        assert log.state.promise("tenants/other") is log.state.promise()
        assert log.state.promise(ACME).anchored_size == 0
        assert (await log.reader.batch_inclusion(ledger.uid, [1], 0)).anchored
        assert not (await log.reader.batch_inclusion(ledger.uid, [1], size, ACME)).anchored
        (tmp_path / "second").unlink()
        await eventually(lambda: log.state.promise(ACME).anchored_size == size)
        assert (await log.reader.batch_inclusion(ledger.uid, [1], 0, ACME)).anchored
    # It is kept, with what was reached, and its sinks are opened again.
    again = open_sink(f"file://{tmp_path}/first")
    async with running_log(database_url, tmp_path, sinks=[again], **options) as log:
        assert log.state.promise(ACME).anchored_size == size
        assert log.policies.tenants() == [ACME]
        size = await grow(log, ledger)
        await eventually(lambda: log.state.promise(ACME).anchored_size == size)
        # Taken back: the log's holds for acme as well, and the sink that only it named is closed.
        await log.policies.set(ACME, b"", "bob")
        assert log.state.promise(ACME) is log.state.promise()
        assert [sink.uri for sink in log.relays.sinks] == [again.uri]
        assert (await log.policies.version(ACME, 1)).set_by == "alice"
        assert (await log.policies.version(ACME, 2)) == PolicyRow(ACME, 2, b"", START_NS, "bob")


async def test_policy_of_the_log_replaces_that_of_the_file(tmp_path: Path) -> None:
    ledger = Ledger()
    given = parse_policy(copies(tmp_path, "never"))
    (tmp_path / "never").write_text("in the way")
    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=[open_sink(f"file://{tmp_path}/never")],
        policy=given,
        background=True,
        prepare=_hurry,
    ) as log:
        size = await grow(log, ledger)
        await eventually(lambda: log.state.published_size == size)
        assert log.state.anchored_size == 0
        await log.policies.set("", copies(tmp_path, "copy"), "alice")
        # What is published already goes to the new sink, without anything new being logged.
        await eventually(lambda: log.state.anchored_size == size)


async def test_overdue_is_told_for_each_tenant(tmp_path: Path) -> None:
    now_ns = START_NS
    ledger = Ledger()
    (tmp_path / "second").write_text("in the way")
    with metered() as meter:
        async with running_log(
            f"sqlite:///{tmp_path}/log.db",
            tmp_path,
            sinks=[open_sink(f"file://{tmp_path}/first")],
            background=True,
            prepare=_hurry,
            clock=lambda: now_ns,
        ) as log:
            await log.policies.set(
                ACME, copies(tmp_path, "second", mode="within 10m\nmode fail-closed"), "alice"
            )
            size = await grow(log, ledger)
            await eventually(lambda: log.state.anchored_size == size)
            now_ns += 601 * 1_000_000_000
            await log.overdue.look()
            assert log.state.promise(ACME).overdue
            assert not log.state.promise().overdue
            labels = {"tenant": ACME, "log": log.identity.name}
            assert meter.value("anchor.overdue", **labels) == 1
            # A longer limit ends it at once.
            await log.policies.set(
                ACME, copies(tmp_path, "second", mode="within 1h\nmode fail-closed"), "alice"
            )
            await log.overdue.look()
            assert not log.state.promise(ACME).overdue
            assert meter.value("anchor.overdue", **labels) == 0
            now_ns += 3601 * 1_000_000_000
            await log.overdue.look()
            assert meter.value("anchor.overdue", **labels) == 1
            await log.policies.set(ACME, b"", "alice")
            await log.overdue.look()
            assert meter.value("anchor.overdue", **labels) == 0


async def test_what_cannot_be_published_is_overdue_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing gets to any sink meanwhile, though each has all that there is to have."""
    now_ns, broken, ledger = START_NS, False, Ledger()
    replace = DirectoryFiles.replace_checkpoint

    def replace_or_fail(files: DirectoryFiles, data: bytes) -> None:
        if broken:
            raise PermissionError(errno.EACCES, "not allowed")
        replace(files, data)

    monkeypatch.setattr(DirectoryFiles, "replace_checkpoint", replace_or_fail)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=[open_sink(f"file://{tmp_path}/first")],
        background=True,
        prepare=_hurry,
        clock=lambda: now_ns,
    ) as log:
        await log.policies.set(
            "", copies(tmp_path, "first", mode="within 10m\nmode fail-closed"), "alice"
        )
        await eventually(lambda: log.state.anchored_size == log.state.published_size == 1)
        broken = True
        size = await grow(log, ledger)
        assert size > log.state.published_size
        now_ns += 599 * 1_000_000_000
        await log.overdue.look()
        assert not log.state.promise().overdue
        now_ns += 2 * 1_000_000_000
        await log.overdue.look()
        assert log.state.promise().overdue
        broken = False
        await eventually(lambda: log.state.anchored_size == size)
        await log.overdue.look()
        assert not log.state.promise().overdue


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"quorum nobody\n", "line 1"),
        (b"sink a gopher://x\nquorum a\n", "no sink for scheme"),
        (b"sink a s3://bucket?mode=GOVERNANCE\nquorum a\n", "COMPLIANCE"),
        (b"sink a file:///x\nquorum a\nmode fail-closed\n", "within"),
        (f"witness w {NO_URL}\nquorum w\n".encode(), "never be met"),
    ],
)
async def test_bad_policies_are_refused_and_change_nothing(
    tmp_path: Path, text: bytes, what: str
) -> None:
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        with pytest.raises(InvalidArgumentError, match=what) as refused:
            await log.policies.set("", text, "alice")
        assert [violation.field for violation in refused.value.violations] == ["text"]
        assert log.policies.newest("") is None
        assert log.state.promise().policy is None


async def test_a_repeat_is_no_new_version_and_versions_are_compared(tmp_path: Path) -> None:
    text = copies(tmp_path, "copy")
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        checked = await log.policies.set("", text, "alice", validate_only=True)
        assert (checked.version, log.policies.newest("")) == (1, None)
        first = await log.policies.set("", text, "alice", expected_version=0)
        assert await log.policies.set("", text, "bob") == first
        # The same call again, its answer lost; of somebody else it would not be the same.
        assert await log.policies.set("", text, "alice", expected_version=0) == first
        with pytest.raises(AbortedError, match="version 1"):
            await log.policies.set("", text, "bob", expected_version=0)
        with pytest.raises(AbortedError, match="version 1"):
            await log.policies.set("", b"", "bob", expected_version=0)
        with pytest.raises(NotFoundError):
            await log.policies.version("", 2)


async def test_more_sinks_than_a_receipt_can_show_are_refused(tmp_path: Path) -> None:
    base = open_sink(f"file://{tmp_path}/base")
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=[base]) as log:
        await log.policies.set("", copies(tmp_path, *(f"c{n}" for n in range(63))), "alice")
        with pytest.raises(InvalidArgumentError, match="65 are too many"):
            await log.policies.set("", copies(tmp_path, *(f"c{n}" for n in range(64))), "alice")
        # Another tenant's are others.
        await log.policies.set(ACME, copies(tmp_path, *(f"d{n}" for n in range(63))), "alice")
    with pytest.raises(ConfigError, match="65 are too many"):
        open_sinks([f"file://{tmp_path}/c{n}" for n in range(65)], None)


async def test_what_was_stored_and_not_heard_of_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database gave no answer, for so long that the call was given up, and had it all along."""
    text, other = copies(tmp_path, "copy"), copies(tmp_path, "other")
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        # By the next call, and not in the background.
        log.policies._retry = RetryPolicy(attempts=9, base_s=1e9, cap_s=1e9, budget_s=1e12)
        storage = log.policies._storage
        add = storage.add_policy

        async def add_and_lose(log_uid: bytes, epoch: int, policy: PolicyRow) -> bool:
            assert await add(log_uid, epoch, policy)
            raise UnavailableError("DATABASE_UNAVAILABLE", "no answer")

        for tenant in ("", ACME):
            with monkeypatch.context() as patched:
                patched.setattr(storage, "add_policy", add_and_lose)
                with pytest.raises(UnavailableError):
                    await log.policies.set(tenant, text, "alice")
        again = await log.policies.set("", text, "alice")
        assert (again.version, log.policies.holding("")) == (1, again)
        # Something else: it is after what nobody knew to be there, which holds until then.
        with pytest.raises(AbortedError, match="version 1"):
            await log.policies.set(ACME, other, "bob")
        held = log.policies.holding(ACME)
        assert held is not None
        assert held.text == text
        assert (await log.policies.set(ACME, other, "bob")).version == 2


async def test_stored_policy_that_became_unusable_is_met_by_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    async with running_log(url, tmp_path) as log:
        row = PolicyRow("", 1, b"sink a gopher://x\nquorum a\n", START_NS, "alice")
        assert await log.policies._storage.add_policy(log.identity.uid, log.committer.epoch, row)
    async with running_log(url, tmp_path) as log:
        await grow(log, Ledger())
        assert log.state.anchored_size == 0
        await log.policies.set(ACME, copies(tmp_path, "copy"), "bob")
        await log.policies.set("", b"", "bob")
        assert log.state.anchored_size == -1


async def test_policy_gives_the_sinks_that_it_names_first_its_time(tmp_path: Path) -> None:
    """What the log published long before is nothing that they could have held by then."""
    now_ns, ledger, url = START_NS, Ledger(), f"sqlite:///{tmp_path}/log.db"
    (tmp_path / "second").write_text("in the way")
    options: dict[str, Any] = {
        "background": True,
        "prepare": _hurry,
        "clock": lambda: now_ns,
    }
    text = copies(tmp_path, "second", mode="within 10m\nmode fail-closed")
    base = open_sink(f"file://{tmp_path}/first")
    async with running_log(url, tmp_path, sinks=[base], **options) as log:
        size = await grow(log, ledger)
        await eventually(lambda: log.state.anchored_size == size)
        now_ns += 3600 * 1_000_000_000
        for tenant in (ACME, ""):
            await log.policies.set(tenant, text, "alice")
        now_ns += 600 * 1_000_000_000
        await log.overdue.look()
        assert not log.state.promise(ACME).overdue
        assert not log.state.promise().overdue
        now_ns += 1_000_000_000
        await log.overdue.look()
        assert log.state.promise(ACME).overdue
        assert log.state.promise().overdue
        # Set once more, the same policy is no other one.
        await log.policies.set(ACME, text, "alice")
        await log.overdue.look()
        assert log.state.promise(ACME).overdue
    # Nor does a start give it more time.
    again = open_sink(f"file://{tmp_path}/first")
    async with running_log(url, tmp_path, sinks=[again], **options) as log:
        await log.overdue.look()
        assert log.state.promise(ACME).overdue


async def test_settings_give_the_sinks_that_they_name_first_their_time(tmp_path: Path) -> None:
    """Once for what they say, and not with each start: a dead sink must be told in the end."""
    now_ns, url = START_NS, f"sqlite:///{tmp_path}/log.db"
    (tmp_path / "second").write_text("in the way")
    minute_ns = 60 * 1_000_000_000

    @asynccontextmanager
    async def started(*names: str, mode: str = "within 10m\n") -> AsyncIterator[OpenLog]:
        policy = parse_policy(copies(tmp_path, *names, mode=mode)) if names else None
        async with running_log(
            url,
            tmp_path,
            sinks=open_sinks([f"file://{tmp_path}/first"], policy),
            policy=policy,
            background=True,
            prepare=_hurry,
            clock=lambda: now_ns,
        ) as log:
            await log.overdue.look()
            yield log

    async with started("first") as log:
        size = await grow(log, Ledger())
        await eventually(lambda: log.state.anchored_size == size)
    now_ns += 60 * minute_ns
    async with started("first", "second") as log:
        assert (log.state.anchored_size, log.state.promise().overdue) == (0, False)
        # What is set for the log while it runs is another one, and taken back, it is that again.
        await log.policies.set("", copies(tmp_path, "first", mode="within 1m\n"), "alice")
    now_ns += 6 * minute_ns
    async with started("first", "second") as log:
        await log.policies.set("", b"", "alice")
        assert log.state.promise().since_ns == now_ns
        assert log.policies.tenants() == []
    now_ns += 10 * minute_ns
    async with started("first", "second") as log:
        assert not log.state.promise().overdue
    now_ns += minute_ns
    async with started("first", "second") as log:
        assert log.state.promise().overdue
    # Other words are another policy; and so is one that was gone meanwhile.
    async with started("first", "second", mode="within 5m\n") as log:
        assert not log.state.promise().overdue
    async with started():
        pass
    now_ns += 60 * minute_ns
    async with started("first", "second", mode="within 5m\n") as log:
        assert not log.state.promise().overdue


@pytest.mark.parametrize("mode", ["", "within 10m\nmode fail-closed\n"], ids=["open", "closed"])
async def test_stored_policy_that_cannot_be_read_keeps_no_log_from_opening(
    tmp_path: Path, mode: str
) -> None:
    """Another version wrote it. What it asks for is not known, only what if it is not met."""
    url, ledger, now_ns = f"sqlite:///{tmp_path}/log.db", Ledger(), START_NS
    text = copies(tmp_path, "copy") + f"a-newer-line x\n{mode}".encode()
    async with running_log(url, tmp_path) as log:
        row = PolicyRow(ACME, 1, text, START_NS, "alice")
        assert await log.policies._storage.add_policy(log.identity.uid, log.committer.epoch, row)
    options: dict[str, Any] = {"background": True, "clock": lambda: now_ns}
    for waits in (False, True):
        sinks = [open_sink(f"file://{tmp_path}/base")]
        async with running_log(url, tmp_path, sinks=sinks, wait_for_sinks=waits, **options) as log:
            assert log.state.held is None
            size = await grow(log, ledger)
            await eventually(lambda log=log, size=size: log.state.anchored_size == size)  # type: ignore[misc]
            promise = log.state.promise(ACME)
            assert promise.anchored_size == 0
            now_ns += 2_000_000_000
            await log.overdue.look()
            assert (promise.overdue, promise.policy.fail_closed) == (bool(mode), bool(mode))  # type: ignore[union-attr]
    async with running_log(url, tmp_path, sinks=[open_sink(f"file://{tmp_path}/base")]) as log:
        assert log.policies.holding(ACME) == row
        await log.policies.set(ACME, b"", "bob")
        assert log.state.promise(ACME).anchored_size == size


async def test_number_of_policies_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_POLICIES == 1000
    monkeypatch.setattr("anchor_svc.policies.MAX_POLICIES", 2)
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        for number in range(2):
            await log.policies.set(f"tenants/t{number}", copies(tmp_path, "copy"), "alice")
        with pytest.raises(Exception, match="at most 2 policies"):
            await log.policies.set("tenants/t2", copies(tmp_path, "copy"), "alice")


async def test_over_grpc(tmp_path: Path) -> None:
    async with anchor_on(tmp_path, sinks=()) as anchor:
        none = await anchor.ask("GetPolicy", pb.GetPolicyRequest(log=ANY))
        assert (none.source, none.own_version, none.anchored_size) == (pb.POLICY_SOURCE_NONE, 0, -1)
        text = copies(tmp_path, "copy", mode="within 10m").decode()
        request = pb.SetPolicyRequest(log=ANY, tenant=ACME, text=text, expected_version=0)
        policy = (await anchor.ask("SetPolicy", request)).policy
        assert (policy.tenant, policy.version, policy.text) == (ACME, 1, text)
        assert policy.set_by == "anonymous"
        got = await anchor.ask("GetPolicy", pb.GetPolicyRequest(log=ANY, tenant=ACME))
        assert (got.policy, got.source) == (policy, pb.POLICY_SOURCE_TENANT)
        assert (got.promise.within_s, got.promise.fail_closed) == (600, False)
        listed = await anchor.ask("GetPolicy", pb.GetPolicyRequest(log=ANY))
        assert list(listed.tenants) == [ACME]
        log = (await anchor.ask("GetLog", pb.GetLogRequest(name=ANY, with_tenants=True))).log
        assert [(own.tenant, own.policy.within_s) for own in log.tenants] == [(ACME, 600)]
        assert (await anchor.ask("SetPolicy", request)).policy == policy
        other = pb.SetPolicyRequest(log=ANY, tenant=ACME, text="", expected_version=0)
        with pytest.raises(AbortedError):
            await anchor.ask("SetPolicy", other)
        with pytest.raises(InvalidArgumentError, match="tenant"):
            await anchor.ask("SetPolicy", pb.SetPolicyRequest(log=ANY, tenant="acme", text=text))
