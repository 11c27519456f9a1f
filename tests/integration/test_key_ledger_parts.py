"""A registry is rebuilt from a key ledger that is more than one message holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from keys_svc import rebuilding, storage
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import DeadlineExceededError, InvalidArgumentError
from provledger.rpc.channel import MAX_MESSAGE_BYTES, call
from provledger_cli.connect import Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.verbs import keys_rebuild
from tests.integration.test_key_ledger_rpc import RECEIPT, history
from tests.integration.test_keys_svc import TIMEOUT_S, Keys, keys_on
from tests.unit.test_key_events import R1

EVENTS = [each.signed for each in history().events]


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as opened:
        yield opened


def in_parts(most: int) -> list[pb.RebuildRegistryStreamRequest]:
    parts = [
        pb.RebuildRegistryStreamRequest(
            payloads=[each.encode() for each in EVENTS[start : start + most]],
            receipts=[RECEIPT] * len(EVENTS[start : start + most]),
        )
        for start in range(0, len(EVENTS), most)
    ]
    parts[0].pin = R1.thumbprint
    parts[0].event_count = len(EVENTS)
    return parts


async def send(keys: Keys, parts: list[pb.RebuildRegistryStreamRequest]) -> Any:
    return await call(
        lambda _, **options: keys.stub.RebuildRegistryStream(iter(parts), **options),
        parts,
        timeout_s=TIMEOUT_S,
    )


async def test_parts_make_the_registry_that_one_message_makes(keys: Keys) -> None:
    assert (await send(keys, in_parts(2))).key_count == 4
    # Asked again, as by one whose answer was lost, in whichever parts.
    assert (await send(keys, in_parts(1))).key_count == 4
    whole = pb.RebuildRegistryRequest(
        payloads=[each.encode() for each in EVENTS],
        receipts=[RECEIPT] * len(EVENTS),
        pin=R1.thumbprint,
    )
    assert (await keys.ask("RebuildRegistry", whole)).key_count == 4


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_EVENTS", 3), ("MAX_PART_EVENTS", 1), ("MAX_BYTES", 1000)]
)
async def test_no_more_is_held_than_a_key_ledger_can_be(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(f"keys_svc.parts.{limit}", value)
    with pytest.raises(InvalidArgumentError, match="payloads: must be at most"):
        await send(keys, in_parts(2))
    assert not list(await keys.jwks())


@pytest.mark.parametrize(("sent", "told"), [(1, 0), (2, 0), (-1, 0), (None, -1), (None, 1)])
async def test_parts_that_are_cut_off_are_not_taken_for_all(
    keys: Keys, sent: int | None, told: int
) -> None:
    """What is cut ends as what is whole does; and a key ledger that is cut is one as well."""
    parts = in_parts(1)
    parts[0].event_count += told
    with pytest.raises(InvalidArgumentError, match="event_count: must be as many as payloads"):
        await send(keys, parts[:sent])
    assert not list(await keys.jwks())


async def test_parts_without_an_end_are_not_waited_for(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keys_svc.parts.READ_S", 0.05)
    started = keys.stub.RebuildRegistryStream(timeout=TIMEOUT_S)
    with pytest.raises(DeadlineExceededError, match="not all parts came"):
        await call(lambda *_, **__: started, None, timeout_s=TIMEOUT_S, idempotent=False)


async def test_the_command_sends_what_one_message_does_not_hold(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keys_svc.convert.MAX_EVENTS", 3)
    monkeypatch.setattr(keys_rebuild, "_PART_EVENTS", 2)
    where = Target(DataDir(keys.key_dir), {"keys": keys.endpoint}, embedded=False)
    pairs = [(each, RECEIPT) for each in EVENTS]
    assert await keys_rebuild._rebuild(where, pairs, R1.thumbprint, TIMEOUT_S) == 4
    listed = await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())
    assert [each.payload for each in listed.events] == [each.encode() for each in EVENTS]


def test_a_part_is_well_within_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [(bytes(200_000), RECEIPT)] * 45
    parts = list(keys_rebuild._parts(large, bytes(32)))
    assert [len(each.payloads) for each in parts] == [20, 20, 5]
    assert max(each.ByteSize() for each in parts) < MAX_MESSAGE_BYTES // 2
    assert [bool(each.pin) for each in parts] == [True, False, False]
    assert [each.event_count for each in parts] == [45, 0, 0]


async def test_signatures_are_verified_before_the_database_is_asked_to_wait(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a registry can hold take a minute, after which PostgreSQL gives up a transaction."""
    stages: list[str] = []
    verified, update = rebuilding.verified, storage._update

    def noted(name: str, inner: Any) -> Any:
        def run(*given: Any) -> Any:
            stages.append(name)
            return inner(*given)

        return run

    monkeypatch.setattr(rebuilding, "verified", noted("verified", verified))
    monkeypatch.setattr(storage, "_update", noted("update", update))
    await send(keys, in_parts(2))
    assert stages == ["verified", "update"]
