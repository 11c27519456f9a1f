"""Keys of the registry as commands show them."""

from __future__ import annotations

from typing import Any

from provledger import names
from provledger.api.keys.v1 import keys_pb2
from provledger.client.paging import Pages
from provledger.errors import NotFoundError
from provledger_cli.connect import Remote

PURPOSES = {
    "witness": keys_pb2.KEY_PURPOSE_WITNESS,
    "checkpoint": keys_pb2.KEY_PURPOSE_CHECKPOINT,
    "head": keys_pb2.KEY_PURPOSE_HEAD,
    "receipt": keys_pb2.KEY_PURPOSE_RECEIPT,
}
_PURPOSE_NAMES = {value: name for name, value in PURPOSES.items()}
_STATE_NAMES = {
    keys_pb2.KEY_STATE_PENDING: "pending",
    keys_pb2.KEY_STATE_ACTIVE: "active",
    keys_pb2.KEY_STATE_DRAINING: "draining",
    keys_pb2.KEY_STATE_RETIRED: "retired",
    keys_pb2.KEY_STATE_REVOKED: "revoked",
}


def purpose_name(key: keys_pb2.Key) -> str:
    """What it may sign, in a word."""
    return _PURPOSE_NAMES.get(key.purpose, "unknown")


def state_name(key: keys_pb2.Key) -> str:
    """Where it stands, in a word."""
    return _STATE_NAMES.get(key.state, "unknown")


async def known_key(remote: Remote, kid: str) -> keys_pb2.Key | None:
    """A key of the registry, or None."""
    try:
        request = keys_pb2.GetKeyRequest(name=f"keys/{kid}")
        key: keys_pb2.Key = (await remote.call(remote.keys.GetKey, request)).key
    except NotFoundError:
        return None
    return key


async def list_keys(remote: Remote, purpose: str = "") -> list[keys_pb2.Key]:
    """All keys, newest first, or those of one purpose."""
    found: list[keys_pb2.Key] = []
    pages = Pages()
    while pages.more:
        request = keys_pb2.ListKeysRequest(
            page_size=1000,
            page_token=pages.token,
            purpose=PURPOSES.get(purpose, keys_pb2.KEY_PURPOSE_UNSPECIFIED),
        )
        page = await remote.call(remote.keys.ListKeys, request)
        pages.turn(page.next_page_token, len(page.keys))
        found += page.keys
    return found


async def list_key_events(remote: Remote) -> list[keys_pb2.JournaledKeyEvent]:
    """All key events in order: those of the key ledger, then those on their way to it."""
    found: list[keys_pb2.JournaledKeyEvent] = []
    pages = Pages()
    while pages.more:
        request = keys_pb2.ListKeyEventsRequest(page_size=1000, page_token=pages.token)
        page = await remote.call(remote.keys.ListKeyEvents, request)
        pages.turn(page.next_page_token, len(page.events))
        found += page.events
    return found


def key_document(key: keys_pb2.Key) -> dict[str, Any]:
    """A key as JSON. Numbers beyond 2^53 are decimal text, as everywhere."""
    return {
        "kid": key.kid,
        "purpose": purpose_name(key),
        "state": state_name(key),
        "epoch": key.epoch,
        "uri": key.uri,
        "thumbprint": key.thumbprint,
        "created_at_ns": str(key.created_at_ns),
        "not_before_ns": str(key.not_before_ns) if key.not_before_ns else None,
        "not_after_ns": str(key.not_after_ns) if key.not_after_ns else None,
        "revocation_reason": key.revocation_reason or None,
    }


def time_text(time_ns: int) -> str:
    """A moment for people, "" for 0."""
    return names.timestamp_iso(time_ns)[:19] + "Z" if time_ns else ""
