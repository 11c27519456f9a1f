"""The first keys of services that this machine's `up` does not run: opened, registered, begun with.

::

    open every key ──> register those whose purpose has none ──> propose the genesis ──> endorse it
                                                                 (the ledger service does the rest)

No key is made here: what signs for years is made under the operator's eyes, in the provider. Safe
to repeat, and safe to be killed anywhere: a purpose that has the key given is left alone, and so is
a key ledger that has begun. What verifiers pin is said of the recovery key itself, never by the
registry: that is what they hold against the pin. A registry that is empty although the installation
has a key ledger is lost, not new; it is refused, for new first keys would be another history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import CallPolicy
from provledger.client.calls import unary
from provledger.errors import KMSError, NotFoundError, StatusError
from provledger.jwk import jwk_from_public_key, thumbprint
from provledger.key_events import LEDGER_NAME
from provledger.kms import open_signer
from provledger.retry import NO_RETRY
from provledger.rpc.errors import is_retryable
from provledger_cli.ceremonies.registry import list_keys, purpose_name
from provledger_cli.connect import Remote
from provledger_cli.embedded.bootstrap import PURPOSES, endorse
from provledger_cli.embedded.config import KEYS, RECOVERY_KID
from provledger_cli.failures import CommandError

_ATTEMPT_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class FirstKeys:
    """What was done: kids registered now, and the thumbprint (32 bytes) verifiers pin.

    pin: None where the key ledger had begun and the recovery key, offline by then as it should be,
    could not be opened, which is what `unopened` says.
    """

    registered: tuple[str, ...]
    pin: bytes | None
    unopened: str = ""


async def begin(remote: Remote, uris: Mapping[str, str], recovery: str, key_dir: Path) -> FirstKeys:
    """Register the keys at `uris`, by purpose, and begin the key ledger with a recovery key.

    Raises:
        CommandError: a key cannot be opened, or is another than the one that an earlier run
            registered or began with; the registry is lost rather than new; or the ledger service
            did not say, in the time there is, whether it is.
        StatusError: as the keys service says.
    """
    known = await list_keys(remote)
    if not known:
        await _check_new(remote)
    first = keys_pb2.ListKeyEventsRequest(page_size=1)
    events = (await remote.call(remote.keys.ListKeyEvents, first)).events
    begun = events[0] if events else None
    if begun is not None and begun.state != keys_pb2.KEY_EVENT_STATE_PROPOSED:
        try:
            pin = thumbprint(orjson.loads(await _public_jwk("recovery", recovery, key_dir)))
        except CommandError as error:
            return FirstKeys((), None, error.message)
        _check_recovery(begun, pin)
        return FirstKeys((), pin)
    # All are opened before the first is registered: a typing mistake then leaves nothing behind.
    jwks = {name: await _public_jwk(name, uri, key_dir) for name, uri in uris.items()}
    recovery_jwk = await _public_jwk("recovery", recovery, key_dir)
    pin = thumbprint(orjson.loads(recovery_jwk))
    if begun is not None:
        _check_recovery(begun, pin)
    _check_given(known, jwks)
    purposes = {purpose_name(key) for key in known}
    registered = []
    for purpose, jwk in jwks.items():
        if purpose in purposes:
            continue
        request = keys_pb2.CreateKeyRequest(
            kid=KEYS[purpose], purpose=PURPOSES[purpose], uri=uris[purpose], jwk=jwk
        )
        await remote.call(remote.keys.CreateKey, request)
        registered.append(KEYS[purpose])
    genesis = keys_pb2.ProposeGenesisRequest(recovery_kid=RECOVERY_KID, recovery_jwk=recovery_jwk)
    begun = (await remote.call(remote.keys.ProposeGenesis, genesis)).event
    await endorse(remote.keys, remote.policy, begun, RECOVERY_KID, recovery, key_dir)
    return FirstKeys(tuple(registered), pin)


def _check_recovery(begun: keys_pb2.JournaledKeyEvent, given: bytes) -> None:
    """Return if the key ledger began with the recovery key that is given, by its thumbprint."""
    if bytes(begun.event.thumbprint) != given:
        raise CommandError(
            f"the key ledger began with another recovery key: {begun.event.thumbprint.hex()}, and "
            f"the one given is {given.hex()}",
            hint="give the one that it began with; if you know of no other than yours, do not "
            "trust this key registry",
        )


def _check_given(known: Sequence[keys_pb2.Key], jwks: Mapping[str, bytes]) -> None:
    """Return if each key given is the one that an earlier run registered for its purpose, if any.

    Of a purpose that has more than one, the keys service says why no key ledger can begin.
    """
    for purpose, jwk in jwks.items():
        there = [key for key in known if purpose_name(key) == purpose]
        given = thumbprint(orjson.loads(jwk))
        if there and all(bytes(key.thumbprint) != given for key in there):
            raise CommandError(
                f"the {purpose} key is registered already, and is another: {there[0].kid} is "
                f"{there[0].thumbprint.hex()} at {there[0].uri}, and the one given is "
                f"{given.hex()}",
                hint="nothing has begun yet: give the key that is registered, and replace it "
                "afterwards by keys rotate; or begin anew with an empty database of the keys "
                "service",
            )


async def _check_new(remote: Remote) -> None:
    """Return once the ledger service says that it looked, and has no key ledger."""
    if not remote.has("ledger"):
        return
    deadline_s = time.monotonic() + remote.policy.timeout_s
    request = ledger_pb2.GetLedgerRequest(name=LEDGER_NAME)
    while True:
        left_s = deadline_s - time.monotonic()
        attempt = CallPolicy(timeout_s=min(_ATTEMPT_S, max(left_s, 0.1)), retry=NO_RETRY)
        try:
            await unary(remote.ledger.GetLedger, request, attempt)
        except NotFoundError:
            return
        except StatusError as error:
            # It has looked, and its database has none; the anchor, which could say that the
            # database is too old, answers on a first start only with the keys that are made here.
            if error.reason == "ANCHOR_NOT_ASKED":
                return
            if not is_retryable(error) or left_s <= _ASK_AGAIN_S:
                raise CommandError(
                    "the key registry is empty, and whether there is a key ledger could not be "
                    f"asked: {error.reason}: {error.message}",
                    hint="nothing was registered; start the ledger service and run this again",
                ) from None
            await asyncio.sleep(_ASK_AGAIN_S)
        else:
            raise CommandError(
                f"the key registry is empty, but there is a key ledger, {LEDGER_NAME}",
                hint="it is lost, not new: restore its database, or run "
                "keys rebuild EXPORT --pin JKT",
            )


async def _public_jwk(name: str, uri: str, key_dir: Path) -> bytes:
    try:
        signer = await open_signer(uri, key_dir)
    except KMSError as error:
        raise CommandError(
            f"the {name} key cannot be opened: {error}", hint="nothing was registered"
        ) from None
    public_key = signer.public_key
    await signer.close()
    return orjson.dumps(jwk_from_public_key(public_key))
