"""What the anchor endorses: key events whose sizes its logs have reached. On both databases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc.servicer import AnchorServicer
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import FailedPreconditionError
from provledger.key_events import EventType, KeyEvent, KeyRef, LogSize
from provledger.rpc.key_events import event_to_pb
from tests.integration.test_anchor_held import Ring
from tests.support.anchoring import Ledger, TestKeys, running_log, submit
from tests.support.chain import START_NS
from tests.support.key_history import GENESIS, thumbprint


def ended(kind: EventType, *sizes: LogSize) -> KeyEvent:
    more: dict[str, Any] = {"not_after_ns": START_NS}
    if kind is EventType.ROTATED:
        previous = KeyRef("checkpoint-0", thumbprint("checkpoint-0"))
        more = {"epoch": 2, "not_before_ns": START_NS, "previous": previous}
    return KeyEvent(
        event=kind,
        at_ns=START_NS,
        kid="checkpoint-1",
        thumbprint=thumbprint("checkpoint-1"),
        purpose="checkpoint",
        genesis=GENESIS.digest(),
        sizes=sizes,
        **more,
    )


@pytest.mark.parametrize("kind", [EventType.ROTATED, EventType.RETIRED])
async def test_sizes_that_a_log_does_not_have_are_not_endorsed(
    database_url: str, tmp_path: Path, kind: EventType
) -> None:
    """By such an event, no signature of the new key would count until the log is as large."""
    keys, ledger = TestKeys(), Ledger()
    ring: Any = Ring(keys)
    async with running_log(database_url, tmp_path) as log:
        logs: Any = SimpleNamespace(all=lambda: [log], check_held=lambda: None)
        servicer = AnchorServicer(logs, keys, ring)
        ledger.grow(20)
        size = (await submit(log, ledger)).tree_size
        origin = log.identity.origin

        async def endorse(*sizes: LogSize) -> None:
            event = event_to_pb(ended(kind, *sizes))
            await servicer.SignKeyEvent(pb.SignKeyEventRequest(event=event, kid="any"), None)

        # The log may have grown since it was asked; and there are logs of other anchors.
        for good in (size, size - 1):
            await endorse(LogSize("another.test/log", size + 1), LogSize(origin, good))
        before = sum(len(signer.signed) for signer in keys.signers.values())
        for wrong in (size + 1, 2**63 - 1):
            with pytest.raises(FailedPreconditionError) as caught:
                await endorse(LogSize(origin, wrong))
            assert caught.value.reason == "KEY_EVENT_SIZE"
            assert caught.value.metadata == {"origin": origin, "signedSize": str(size)}
        assert sum(len(signer.signed) for signer in keys.signers.values()) == before


async def test_no_checkpoint_key_ends_without_a_size_of_each_log(
    database_url: str, tmp_path: Path
) -> None:
    """Without any it would never end; by those of other logs, all it signed in this one would."""
    keys, ledger = TestKeys(), Ledger()
    ring: Any = Ring(keys)
    async with running_log(database_url, tmp_path) as log:
        logs: Any = SimpleNamespace(all=lambda: [log], check_held=lambda: None)
        servicer = AnchorServicer(logs, keys, ring)
        other = LogSize("another.test/log", 5)

        async def endorse(kind: EventType, *sizes: LogSize) -> None:
            event = event_to_pb(ended(kind, *sizes))
            await servicer.SignKeyEvent(pb.SignKeyEventRequest(event=event, kid="any"), None)

        ledger.grow(20)
        size = (await submit(log, ledger)).tree_size
        origin = log.identity.origin
        for sizes in ((), (other,)):
            with pytest.raises(FailedPreconditionError) as caught:
                await endorse(EventType.RETIRED, *sizes)
            assert caught.value.reason == "KEY_EVENT_SIZE"
            assert caught.value.metadata == {"origin": origin, "signedSize": str(size)}
        await endorse(EventType.RETIRED, other, LogSize(origin, size))
        # A key that begins without a size of it counts in it from its beginning on.
        await endorse(EventType.ROTATED, other)
