"""What is said of a key that began before the one it replaced: only the recovery key lets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from keys_svc import convert, journal
from keys_svc.registry import EventRecord, EventState, Registry
from keys_svc.revoking import revoke
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.key_events import EventType
from provledger.keyset import MAX_CLOCK_AHEAD_NS
from provledger_cli.ceremonies import ceremony
from provledger_cli.failures import CommandError
from tests.unit.test_key_events import R1, W1, W2, W3, Maker
from tests.unit.test_keys_journal import binding, carry, rotate
from tests.unit.test_keys_revoking import kept

AHEAD_NS = 600 + MAX_CLOCK_AHEAD_NS + 1


def replaced() -> Registry:
    """By a command that was cut before the recovery key endorsed it; witness-1 drains still."""
    registry = carry(rotate(kept(), W2, AHEAD_NS), now_ns=AHEAD_NS)
    registry = carry(journal.create(registry, binding(W3), 600), now_ns=600)
    return revoke(registry, "witness-2", "ahead", 600, replacement_kid="witness-3")


def rotation(registry: Registry) -> EventRecord:
    """The one to witness-3."""
    (found,) = (
        each
        for each in registry.events
        if each.event_type is EventType.ROTATED and each.signed.event.kid == "witness-3"
    )
    return found


def endorsed(registry: Registry, *by: Maker) -> Registry:
    event = rotation(registry).signed.event
    return journal.endorse(registry, event.digest(), [each.endorse(event) for each in by])


def remote_of(registry: Registry) -> Any:
    """A keys service that answers from it."""
    events = [convert.event_record_to_pb(registry, each) for each in registry.events]
    keys = [convert.key_to_pb(each, 700) for each in registry]
    answers = {
        "ListKeyEvents": pb.ListKeyEventsResponse(events=events),
        "ListKeys": pb.ListKeysResponse(keys=keys),
        "GetKey": pb.GetKeyResponse(key=convert.key_to_pb(registry.get("witness-3"), 700)),
    }

    async def call(method: str, request: Any) -> Any:
        return answers[method]

    return SimpleNamespace(call=call, keys=SimpleNamespace(**{name: name for name in answers}))


def test_no_key_of_before_may_endorse_a_key_that_begins_before_the_one_it_replaces() -> None:
    registry = replaced()
    assert journal.endorsers(registry, rotation(registry)) == ()
    registry = endorsed(registry, W1, W3)
    assert rotation(registry).state is EventState.PROPOSED
    registry = endorsed(registry, R1)
    assert rotation(registry).state is EventState.SEALED


def test_of_a_rotation_that_is_sealed_the_old_key_is_named_still() -> None:
    """It is then a part of the history itself, in which it begins no later than the active one."""
    registry = rotate(carry(journal.create(kept(), binding(W2), 300)), W2)
    (found,) = journal.open_events(registry)
    event = found.signed.event
    registry = journal.endorse(registry, event.digest(), [W1.endorse(event), W2.endorse(event)])
    (found,) = journal.open_events(registry)
    assert found.state is EventState.SEALED
    assert "witness-1" in journal.endorsers(registry, found)


async def test_that_the_recovery_key_is_missing_is_said_though_an_old_key_endorsed_it() -> None:
    remote = remote_of(endorsed(replaced(), W1, W3))
    with pytest.raises(CommandError, match="recovery key has not endorsed") as caught:
        await ceremony.check_endorsed(remote, "witness-3")
    assert "keys revoke witness-2 --replace-by witness-3" in caught.value.hint
    with pytest.raises(CommandError, match="recovery key has not endorsed"):
        await ceremony.wait_until_told(remote, "witness-3", -1.0)


@pytest.mark.parametrize(
    ("by", "stage", "silent"),
    [
        ((), "waits for the recovery key and witness-3", ""),
        ((W1, W3), "waits for the recovery key", ""),
        ((W1, R1), "not by witness-3", "witness-3"),
    ],
)
def test_what_it_waits_for_is_the_recovery_key(
    by: tuple[Maker, ...], stage: str, silent: str
) -> None:
    registry = endorsed(replaced(), *by)
    one = convert.event_record_to_pb(registry, rotation(registry))
    told = ceremony._stage_of("witness-3", one, "recovery-1")
    assert stage in told.text
    assert told.silent == silent
    assert "old key" not in told.text


async def test_with_the_recovery_key_it_is_only_waited_for() -> None:
    remote = remote_of(endorsed(replaced(), W1, R1))
    await ceremony.check_endorsed(remote, "witness-3")
    with pytest.raises(CommandError, match="and not by witness-3"):
        await ceremony.wait_until_told(remote, "witness-3", -1.0)
