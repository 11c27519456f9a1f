"""The steps of a key ceremony as commands see them: propose, wait for the key ledger, measure.

The journal is the keys service's: this process may be killed at any moment, and running the same
command again goes on where it stands. What can be taken back is taken back by `--cancel`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import StatusError
from provledger.key_events import TENANT
from provledger.keyset import KeySet, KeyState
from provledger.rpc.probe import PROBE_LEDGER, probe_draft
from provledger_cli.ceremonies.not_begun import RUNBOOK, NotBegun, not_begun
from provledger_cli.ceremonies.recovery import OpenRecovery
from provledger_cli.ceremonies.registry import PURPOSES, known_key, list_key_events
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError, replacing

_POLL_S = 0.05
_PROBE_S = 0.02
_REPORTS_S = 10.0

_AGAIN = "running the same command again goes on"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a key waits for, in words.

    silent: the key that does not endorse its event, where another one has: the ledger service has
        asked both, so that it is not what is away. "" where that is not known.
    """

    text: str
    silent: str = ""


@dataclass(slots=True)
class Probe:
    """Appends one after another while a ceremony runs. Gaps are between completed appends."""

    longest_gap_s: float = 0.0
    appended: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    first_under: dict[str, str] = field(default_factory=dict)

    async def run(self, remote: Remote, stop: asyncio.Event) -> None:
        """Append until `stop`."""
        ledger = await self._ledger(remote)
        last_s = time.monotonic()
        number, tag = 0, time.time_ns()
        while not stop.is_set():
            number += 1
            draft = probe_draft(f"probe-{tag}-{number}")
            try:
                request = ledger_pb2.AppendRequest(
                    ledger=ledger, draft=draft, view=common_pb2.RECEIPT_VIEW_BASIC
                )
                # One attempt: a failed call is to be counted, not to be repaired.
                answer = await remote.ledger.Append(request, timeout=5.0)
            except Exception as error:  # whatever it is, it is what a caller would have seen
                self.failed += 1
                self.failures.append(type(error).__name__)
                await asyncio.sleep(_POLL_S)
                continue
            now_s = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now_s - last_s)
            last_s = now_s
            self.appended += 1
            self.first_under.setdefault(answer.receipt.kid, answer.receipt.name)
            await asyncio.sleep(_PROBE_S)

    async def _ledger(self, remote: Remote) -> str:
        request = ledger_pb2.CreateLedgerRequest(parent=f"tenants/{TENANT}", ledger_id=PROBE_LEDGER)
        return str((await remote.call(remote.ledger.CreateLedger, request)).ledger.name)


async def wait_until_active(remote: Remote, kid: str, timeout_s: float, say: Say) -> keys_pb2.Key:
    """Wait until the published key set says so, telling on the way what is waited for.

    Raises:
        CommandError: it does not in time, or the rotation to it was taken back, by another command.
    """
    deadline_s = time.monotonic() + timeout_s
    told = ""
    while True:
        answer = await remote.call(remote.keys.GetJwks, keys_pb2.GetJwksRequest())
        states = {key.kid: key.state for key in KeySet.parse(answer.jwks)}
        if states.get(kid) is KeyState.ACTIVE:
            break
        events = await list_key_events(remote)
        if not _rotated(events, kid):
            await _check_not_taken_back(remote, kid)
        stage = _stage(events, kid)
        if stage.text != told:
            say(stage.text)
            told = stage.text
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"{kid} is not active after {timeout_s:.0f} s: {stage.text}",
                hint=_what_to_do(stage, kid, await _early(remote)),
            )
        await asyncio.sleep(_POLL_S)
    key = await known_key(remote, kid)
    if key is None:
        raise CommandError(f"{kid} is gone from the registry")
    return key


async def _check_not_taken_back(remote: Remote, kid: str) -> None:
    """Of a key to which no rotation is under way: return unless it is still pending."""
    key = await known_key(remote, kid)
    if key is not None and key.state == keys_pb2.KEY_STATE_PENDING:
        raise CommandError(
            f"the rotation to {kid} was taken back by another command",
            hint=f"{kid} stays pending, and the old key signs on; running the same command again "
            "begins the rotation anew",
        )


def _stage(events: Sequence[keys_pb2.JournaledKeyEvent], kid: str) -> _Stage:
    waiting = [
        each
        for each in events
        if each.event.kid == kid and each.state != keys_pb2.KEY_EVENT_STATE_RECORDED
    ]
    if not waiting:
        return _Stage(f"{kid} is pending")
    return _stage_of(kid, waiting[0], _recovery_kid(events))


def _stage_of(kid: str, first: keys_pb2.JournaledKeyEvent, recovery: str) -> _Stage:
    """Where the first of a key's events that are not recorded stands.

    recovery: what the key ledger calls the recovery key.
    """
    what = {
        keys_pb2.KEY_EVENT_TYPE_CREATED: "key.created",
        keys_pb2.KEY_EVENT_TYPE_ROTATED: "key.rotated",
    }.get(first.event.type, "its event")
    if first.state == keys_pb2.KEY_EVENT_STATE_SEALED:
        return _Stage(f"{what} is endorsed and goes to the key ledger")
    endorsed = {each.kid for each in first.endorsements}
    # The newest first: one that drains may endorse as well.
    old = first.endorser_kids[0] if first.endorser_kids else ""
    if first.event.type == keys_pb2.KEY_EVENT_TYPE_ROTATED and not old:
        if recovery not in endorsed:
            both = "" if kid in endorsed else f" and {kid}"
            return _Stage(f"{what} waits for the recovery key{both} to endorse it")
    elif not endorsed or not old:
        both = "the old key and the new one (is the ledger service up?)"
        return _Stage(f"{what} waits to be endorsed by {both}")
    if endorsed == {kid}:
        return _Stage(f"{what} is endorsed by {kid}, and not by the old key, {old}", old)
    if kid not in endorsed:
        return _Stage(f"{what} is endorsed by {', '.join(sorted(endorsed))}, and not by {kid}", kid)
    return _Stage(f"{what} is endorsed and waits for its turn")


async def _early(remote: Remote) -> list[NotBegun]:
    """Keys that nobody signs with yet, if somebody says so: it is asked for the sake of a hint."""
    with suppress(StatusError):
        return await not_begun(remote)
    return []


def _what_to_do(stage: _Stage, kid: str, early: list[NotBegun]) -> str:
    """What to do about a key that stays pending.

    Where the old key cannot endorse it any more, the recovery key can.
    """
    if early:
        # Nor does anybody witness what would replace it.
        return f"{kid} stays pending. {early[0]}; see {RUNBOOK}"
    back = f"{_AGAIN}, the same with --cancel takes it back"
    if not stage.silent:
        return f"it stays pending, and the old key signs on; {back}"
    why = f"the log of the service that signs with {stage.silent} says why it does not"
    if stage.silent == kid:
        return f"{why}; {kid} stays pending, and the old key signs on; {back}"
    return (
        f"{why}; {kid} stays pending; once it is put right, {back}; {replacing(stage.silent, kid)}"
    )


async def wait_until_usable(
    remote: Remote, kid: str, purpose: str, timeout_s: float, say: Say
) -> None:
    """Wait until a service has shown that it can sign with a new key: it endorsed its creation.

    Where none signs for that purpose, as when its key is lost and it does not start, there is
    nothing to stop by a key that cannot sign either, and it is not waited for.

    Raises:
        CommandError: it has not in time, and nothing was changed.
    """
    began_s = time.monotonic()
    deadline_s = began_s + timeout_s
    told = False
    while not await _is_usable(remote, kid):
        # After a restart of the keys service, services report within seconds.
        if time.monotonic() > began_s + _REPORTS_S and not await _is_signed_for(remote, purpose):
            say(f"no service signs with a {purpose} key now: {kid} is not waited for")
            return
        if not told:
            say(f"{kid} waits for the service that is to sign with it, to endorse its creation")
            told = True
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"nothing was revoked: no service has shown within {timeout_s:.0f} s that it can "
                f"sign with {kid}",
                hint=f"the log of the service that signs with the {purpose} key says why, if the "
                f"ledger service is up to ask it; {kid} stays pending: once it is put right, "
                f"{_AGAIN}, or name another key by --replace-by",
            )
        await asyncio.sleep(_POLL_S)


async def _is_signed_for(remote: Remote, purpose: str) -> bool:
    """Whether some service reports a key of a purpose as the one that it signs with."""
    answer = await remote.call(remote.keys.ListSigners, keys_pb2.ListSignersRequest())
    wanted = PURPOSES[purpose]
    return any(each.purpose == wanted for signer in answer.signers for each in signer.keys)


async def _is_usable(remote: Remote, kid: str) -> bool:
    """Whether a key has endorsed that it comes in, or there is no key ledger to say so."""
    events = await list_key_events(remote)
    return all(
        each.state != keys_pb2.KEY_EVENT_STATE_PROPOSED
        or any(by.kid == kid for by in each.endorsements)
        for each in events
        if each.event.kid == kid and each.event.type == keys_pb2.KEY_EVENT_TYPE_CREATED
    )


async def wait_until_used(
    remote: Remote, purpose: str, kid: str, timeout_s: float, say: Say
) -> list[str]:
    """Wait until every signing service of the purpose reports `kid`; their names."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = await remote.call(remote.keys.ListSigners, keys_pb2.ListSignersRequest())
        using = {
            f"{signer.watcher}/{signer.instance}": each.kid
            for signer in answer.signers
            for each in signer.keys
            if each.purpose == PURPOSES[purpose]
        }
        behind = sorted(name for name, used in using.items() if used != kid)
        if using and not behind:
            return sorted(using)
        if time.monotonic() > deadline_s:
            say(f"not every service reports {kid} yet: {', '.join(behind) or 'none has reported'}")
            return []
        await asyncio.sleep(_POLL_S)


async def introduce(remote: Remote, kid: str, recovery: OpenRecovery | None) -> None:
    """Have the recovery key let in the first key of a purpose that the key ledger began without.

    Raises:
        CommandError: there is no recovery key at hand.
    """
    events = await list_key_events(remote)
    waits = [each for each in events if each.event.kid == kid]
    if all(each.state == keys_pb2.KEY_EVENT_STATE_RECORDED for each in waits):
        return
    if recovery is None:
        raise CommandError(
            f"{kid} is the first key of its purpose: only the recovery key can let it in",
            hint="it stays pending; run the same command again with --recovery-key FILE or URI",
        )
    await recovery.endorse(remote, {kid})


async def check_endorsed(remote: Remote, kid: str) -> None:
    """Return unless what made `kid` the active key still waits for the recovery key.

    Raises:
        CommandError: it does: `kid` took another's place at once, and nobody else can endorse it.
    """
    key = await known_key(remote, kid)
    if key is not None and key.state == keys_pb2.KEY_STATE_ACTIVE:
        _check_endorsed(await list_key_events(remote), kid)


async def wait_until_told(remote: Remote, kid: str, timeout_s: float) -> str | None:
    """Wait until the key ledger says that `kid` is active; the receipt, None where none is kept.

    Raises:
        CommandError: it does not say so in time, or waits for the recovery key.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        listed = await list_key_events(remote)
        events = _rotated(listed, kid)
        told = [each for each in events if each.state == keys_pb2.KEY_EVENT_STATE_RECORDED]
        if told or not events:
            return (told[0].receipt or None) if told else None
        _check_endorsed(listed, kid)
        if time.monotonic() > deadline_s:
            stage = _stage_of(kid, events[0], _recovery_kid(listed))
            why = "see whether the ledger service is up"
            if stage.silent:
                why = f"the log of the service that signs with {stage.silent} says why"
            raise CommandError(
                f"{kid} is active, but the key ledger does not say so after {timeout_s:.0f} s: "
                f"{stage.text}",
                hint=f"{why}; {_AGAIN}",
            )
        await asyncio.sleep(_POLL_S)


def _rotated(
    events: Sequence[keys_pb2.JournaledKeyEvent], kid: str
) -> list[keys_pb2.JournaledKeyEvent]:
    """Of key events, the rotations to a key: on their way, or recorded."""
    return [
        each
        for each in events
        if each.event.kid == kid and each.event.type == keys_pb2.KEY_EVENT_TYPE_ROTATED
    ]


def _recovery_kid(events: Sequence[keys_pb2.JournaledKeyEvent]) -> str:
    """What the key ledger calls the recovery key; "" where none is kept."""
    genesis = keys_pb2.KEY_EVENT_TYPE_GENESIS
    return next((each.event.kid for each in events if each.event.type == genesis), "")


def _check_endorsed(events: Sequence[keys_pb2.JournaledKeyEvent], kid: str) -> None:
    """Of rotations to an active key: only `keys revoke` makes it active before the record."""
    for rotated in _rotated(events, kid):
        event = rotated.event
        # An old key may have endorsed as well what only the recovery key can.
        counting = {*rotated.endorser_kids, _recovery_kid(events)} - {kid}
        if rotated.state == keys_pb2.KEY_EVENT_STATE_PROPOSED and counting.isdisjoint(
            each.kid for each in rotated.endorsements
        ):
            raise CommandError(
                f"{kid} took the place of {event.previous_kid} at once, and the recovery key has "
                "not endorsed that: what it signs does not verify by the key ledger",
                hint=f"run the same `keys revoke {event.previous_kid} --replace-by {kid}` again "
                "with the recovery key (--recovery-key)",
            )


async def wait_recorded(remote: Remote, kid: str, timeout_s: float) -> str | None:
    """Wait until the key ledger has the revocation of `kid`; its receipt, None if not in time.

    "" where there is none to wait for: no key ledger is kept, or it never heard of the key.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        with suppress(StatusError):
            listed = await list_key_events(remote)
            mine = [
                each
                for each in listed
                if each.event.kid == kid and each.event.type == keys_pb2.KEY_EVENT_TYPE_REVOKED
            ]
            if not mine:
                return ""
            if mine[-1].receipt:
                return str(mine[-1].receipt)
        if time.monotonic() > deadline_s:
            return None
        await asyncio.sleep(_POLL_S)
