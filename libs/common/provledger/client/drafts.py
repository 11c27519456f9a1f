"""What a caller gives to be recorded: a change of an entity, or any other document.

Values are checked where they are known best: the service checks identifiers, states and patches
and names the field that is wrong. Here only what cannot be written down at all is refused.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from provledger import names

Action: TypeAlias = Literal["CREATE", "UPDATE", "DELETE"]

JSONState: TypeAlias = Any
"""A JSON value as Python knows it, or JSON text as `bytes`, which is sent unread. None: absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What every draft says: what it is about, who did it, where it came from.

    Attributes:
        resource_type: Type of what it is about; 1 to 256 bytes of UTF-8, no `/`.
        resource_id: Id of it within its type; 1 to 1,024 bytes of UTF-8.
        actor_id: Who is said to have done it; 1 to 256 bytes. Better a pseudonym: it is in
            the statement, whose hash is in the chain and in the log for ever.
        actor_type: Kind of actor, such as `user`, `service`, `bot`; "" means not said.
        request_id: Makes a retry return the same receipt; 1 to 128 printable ASCII characters. The
            client makes a UUID where it is "", and what an append raises names it (`request_ids`).
            Give your own to be safe across restarts of yours: best one that begins with the time or
            counts up, as UUIDv7 do.
        occurred_at: When it happened: RFC 3339 text, kept as written, or an aware datetime.
        origin_service: Name of the service that made the change.
        trace_id: W3C trace id, 32 lower-case hex digits.
        upstream_events: Ids of the events that caused it; at most 16.
        op_id: Id of the operation it is part of.
        op_parent_id: Id of the operation that caused `op_id`.
    """

    resource_type: str
    resource_id: str
    actor_id: str
    actor_type: str = ""
    request_id: str = ""
    occurred_at: str | datetime = ""
    origin_service: str = ""
    trace_id: str = ""
    upstream_events: tuple[str, ...] = ()
    op_id: str = ""
    op_parent_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation(Draft):
    """A change of an entity.

    CREATE has a new state only, DELETE a previous state only, UPDATE both, and they differ. `diff`
    is a JSON Patch (RFC 6902) from the one to the other; without it the witness makes it.
    """

    action: Action
    previous_state: JSONState = None
    new_state: JSONState = None
    diff: JSONState = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Draft):
    """Anything else worth a receipt.

    `payload` is bytes; where `media_type` is JSON's it may also be a JSON value. At most 1 MiB.
    """

    receipt_type: str
    media_type: str
    payload: Any


def new_request_id() -> str:
    """Make a request id, a UUIDv7 of this moment: ids that follow each other fall on one page of
    the ledger's index, where ids at random have a page written for each."""
    return names.receipt_id_text(names.uuid7(time.time_ns(), os.urandom(10)))
