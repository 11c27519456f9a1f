"""Waiting until the key ledger says all that an export needs of it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from provledger.api.keys.v1 import keys_pb2
from provledger.errors import StatusError
from provledger.key_events import LEDGER_NAME as KEY_LEDGER_NAME
from provledger.keyset import KeySet
from provledger_cli import output
from provledger_cli.anchoring import wait_until_anchored
from provledger_cli.ceremonies.registry import list_key_events
from provledger_cli.connect import Remote

_POLL_S: Final = 0.1


async def key_ledger_anchored(remote: Remote, wait_s: float) -> str | None:
    """Wait until the key ledger names all keys that sign, and is anchored as it is then.

    Returns the log that it is in, None if there is none for us to read.
    """
    behind = await _keys_not_recorded(remote, wait_s)
    if behind:
        kids = output.literal(", ".join(behind))
        output.say(
            f"the key ledger does not name {kids} yet: what they signed is not "
            "verified by it; export again when `keys list` and the key ledger agree"
        )
    try:
        (own,), _, reached = await wait_until_anchored(remote, wait_s, only=KEY_LEDGER_NAME)
    except StatusError as error:
        if error.code in ("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"):
            return None
        raise
    if not reached:
        output.say("the newest key events are not anchored yet: what they say is not in the export")
    return own.log


async def _keys_not_recorded(remote: Remote, wait_s: float) -> list[str]:
    """Kids of keys that sign, and whose event is not in the key ledger after so long.

    After a revocation, a new key signs at once, and its event comes when it can be endorsed.
    """
    deadline_s = time.monotonic() + wait_s
    while remote.has("keys"):
        try:
            known = KeySet.parse(await remote.client.jwks())
            events = await list_key_events(remote)
        except StatusError as error:
            message = output.literal(error.message)
            output.say(f"whether the key ledger names every key is not known: {message}")
            return []
        behind = {
            each.event.kid
            for each in events
            if each.state != keys_pb2.KEY_EVENT_STATE_RECORDED
            and each.event.type != keys_pb2.KEY_EVENT_TYPE_RETIRED
            and each.event.kid in known
        }
        if not behind or time.monotonic() >= deadline_s:
            return sorted(behind)
        await asyncio.sleep(_POLL_S)
    return []
