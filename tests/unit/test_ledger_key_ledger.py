"""Carrying key events: an old key that takes for ever does not keep a recovery key waiting."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from ledger_svc.key_ledger import KeyLedger
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.witness.v1 import witness_pb2

DIGEST = b"\x01" * 32


def event(*endorsed_by: str, state: int = pb.KEY_EVENT_STATE_PROPOSED) -> pb.JournaledKeyEvent:
    return pb.JournaledKeyEvent(
        digest=DIGEST,
        state=state,  # type: ignore[arg-type]
        event=pb.KeyEvent(
            type=pb.KEY_EVENT_TYPE_ROTATED, kid="witness-2", purpose=pb.KEY_PURPOSE_WITNESS
        ),
        endorser_kids=["witness-1"],
        endorsements=[pb.KeyEndorsement(kid=kid) for kid in endorsed_by],
    )


class Ring:
    """What the keys service says, and when it says something new."""

    def __init__(self, *events: pb.JournaledKeyEvent) -> None:
        self.view = SimpleNamespace(open_events=events)
        self._news = asyncio.Event()

    def say(self, *events: pb.JournaledKeyEvent) -> None:
        self.view = SimpleNamespace(open_events=events)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def changed(self, timeout_s: float) -> None:
        await self._news.wait()


class Witness:
    """The new key signs at once, the old one never."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting = asyncio.Event()

    async def SignKeyEvent(self, request: Any, **_: Any) -> witness_pb2.SignKeyEventResponse:
        self.asked.append(request.kid)
        if request.kid == "witness-1":
            self.waiting.set()
            await asyncio.Event().wait()
        return witness_pb2.SignKeyEventResponse(endorsement=pb.KeyEndorsement(kid=request.kid))


class Keys:
    """Seals what has the recovery key's endorsement."""

    def __init__(self) -> None:
        self.given: list[str] = []

    async def EndorseKeyEvent(
        self, request: pb.EndorseKeyEventRequest, **_: Any
    ) -> pb.EndorseKeyEventResponse:
        self.given += [each.kid for each in request.endorsements]
        sealed = event("recovery-1", *self.given, state=pb.KEY_EVENT_STATE_SEALED)
        return pb.EndorseKeyEventResponse(event=sealed)


async def test_a_dead_key_is_not_waited_for_once_the_recovery_key_has_endorsed() -> None:
    ring, witness, keys = Ring(event()), Witness(), Keys()
    unused: Any = None
    carrier = KeyLedger(
        ring,  # type: ignore[arg-type]
        keys,
        witness,
        SimpleNamespace(SignKeyEvent=witness.SignKeyEvent),
        unused,
        unused,
        unused,
        unused,
        "blake3",
        unused,
    )
    endorsing = asyncio.create_task(carrier._endorse(event()))
    async with asyncio.timeout(10.0):
        await witness.waiting.wait()
        # News of something else, or of the new key's own endorsement, changes nothing.
        ring.say(event())
        ring.say(event("witness-2"))
        await asyncio.sleep(0)
        assert not endorsing.done()
        ring.say(event("witness-2", "recovery-1"))
        sealed = await endorsing
    assert sealed.state == pb.KEY_EVENT_STATE_SEALED
    assert (witness.asked, keys.given) == (["witness-2", "witness-1"], ["witness-2"])
