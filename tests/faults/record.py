"""What the clients know: every request, acknowledgement and checkpoint, on disk before it counts.

One file of JSON lines, appended to and synced by the clients alone, as far from the services as a
test can have it:

    {"sent": {"request_id": "r-17", ...}, "kind": "Mutation", "ledger": "tenants/a/ledgers/main"}
    {"acked": "r-17", "ledger": "...", "name": "...", "seq": 4, "tNs": 17, "receiptHash": "<hex>"}
    {"checkpoint": "<note>"}
    {"anchored": "<name>", "ledger": "...", "receiptHash": "<hex>", "logIndex": 9, "by": "<note>",
     "sinks": ["file:///srv/anchors"], "byAll": true}
    {"head": "<envelope>", "ledger": "...", "with": "<note>"}
    {"contradicted": "logs/-", "text": "..."}
    {"refused": "r-17", "ledger": "...", "code": "INTERNAL", "reason": "..", "message": ".."}

`sent` is a draft as the client has it, bytes of a document as `{"hex": ..}`. `anchored` is what
the client was told of a receipt whose checkpoint came with evidence of these sinks, or was waited
for until all had it, once for each checkpoint.
`head` is the signed head of a ledger, with the checkpoint that came with it. `contradicted` names a
ledger or a log of which a client was told what cannot be, after what it knew when it asked.
`refused` is an answer that no fault excuses: anything that is neither an acknowledgement nor an
invitation to come again. Where it answers no draft, it names no request.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provledger.checkpoint import parse
from provledger.client import Document, Mutation
from provledger.errors import ProvledgerError
from provledger.note import parse as parse_note
from tests.faults.known import (
    Acknowledged,
    Anchored,
    Contradicted,
    Headed,
    History,
    Refused,
    Sent,
)


class Record:
    """The file at `path`. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._checkpoints: set[bytes] = set()
        self._anchored: set[tuple[bytes, tuple[str, ...], bool]] = set()
        self._sizes: dict[str, int] = {}
        self.shown = 0
        """How many checkpoints clients were shown, those they knew included."""
        self.told = 0
        """How often clients were told that something is anchored."""
        self.headed = 0
        """How many heads of ledgers clients were shown."""

    def sent(self, items: Iterable[Sent]) -> None:
        """Requests that are about to leave."""
        self._write(
            {"sent": asdict(item.draft), "kind": type(item.draft).__name__, "ledger": item.ledger}
            for item in items
        )

    def acknowledged(self, items: Iterable[Acknowledged]) -> None:
        """Answers that came."""
        self._write(
            {
                "acked": item.request_id,
                "ledger": item.ledger,
                "name": item.name,
                "seq": item.seq,
                "tNs": item.t_ns,
                "receiptHash": item.receipt_hash.hex(),
            }
            for item in items
        )

    def refused(self, item: Refused) -> None:
        """An answer that should not have come."""
        self._write(
            [
                {
                    "refused": item.request_id,
                    "ledger": item.ledger,
                    "code": item.code,
                    "reason": item.reason,
                    "message": item.message,
                }
            ]
        )

    def checkpoint(self, note: bytes) -> None:
        """A signed checkpoint that was seen."""
        self.shown += 1
        if note not in self._checkpoints:
            self._checkpoints.add(note)
            self._write([{"checkpoint": note.decode()}])
            self._grown(note)

    def head(self, item: Headed) -> None:
        """A signed head that was seen, and its checkpoint."""
        self.headed += 1
        self._write(
            [
                {
                    "head": item.head.decode(),
                    "ledger": item.ledger,
                    "with": item.checkpoint.decode(),
                }
            ]
        )
        self._grown(item.checkpoint)

    def contradicted(self, item: Contradicted) -> None:
        """An answer that cannot be right, whatever there is at the end."""
        self._write([{"contradicted": item.name, "text": item.text}])

    @property
    def sizes(self) -> dict[str, int]:
        """Largest tree size that any client was shown, by the origin of the log."""
        with self._lock:
            return dict(self._sizes)

    def _grown(self, note: bytes) -> None:
        # What is no checkpoint is for the checker to name.
        with contextlib.suppress(ProvledgerError):
            found = parse(parse_note(note).text)
            with self._lock:
                self._sizes[found.origin] = max(found.size, self._sizes.get(found.origin, 0))

    def anchored(self, item: Anchored) -> None:
        """What was said to be held by sinks."""
        self.told += 1
        said = (item.checkpoint, item.sinks, item.by_all)
        if said in self._anchored:
            return
        self._anchored.add(said)
        self._write(
            [
                {
                    "anchored": item.name,
                    "ledger": item.ledger,
                    "receiptHash": item.receipt_hash.hex(),
                    "logIndex": item.log_index,
                    "by": item.checkpoint.decode(),
                    "sinks": item.sinks,
                    "byAll": item.by_all,
                }
            ]
        )

    @property
    def checkpoints_seen(self) -> int:
        """How many different ones."""
        return len(self._checkpoints)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        data = b"".join(json.dumps(line, default=_hex).encode() + b"\n" for line in lines)
        with self._lock:
            os.write(self._fd, data)
            os.fdatasync(self._fd)


def _hex(value: Any) -> dict[str, str]:
    assert isinstance(value, bytes)
    return {"hex": value.hex()}


def _draft(kind: str, said: dict[str, Any]) -> Mutation | Document:
    said["upstream_events"] = tuple(said["upstream_events"])
    if kind == "Mutation":
        return Mutation(**said)
    said["payload"] = bytes.fromhex(said["payload"]["hex"])
    return Document(**said)


def read(path: Path) -> History:
    """What a record holds."""
    sent: dict[tuple[str, str], Sent] = {}
    acknowledged: list[Acknowledged] = []
    refused: list[Refused] = []
    checkpoints: list[bytes] = []
    anchored: list[Anchored] = []
    heads: list[Headed] = []
    contradicted: list[Contradicted] = []
    for line in path.read_bytes().splitlines():
        value = json.loads(line)
        if "sent" in value:
            item = Sent(value["ledger"], _draft(value["kind"], value["sent"]))
            sent[item.ledger, item.draft.request_id] = item
        elif "acked" in value:
            acknowledged.append(
                Acknowledged(
                    ledger=value["ledger"],
                    request_id=value["acked"],
                    name=value["name"],
                    seq=value["seq"],
                    t_ns=value["tNs"],
                    receipt_hash=bytes.fromhex(value["receiptHash"]),
                )
            )
        elif "refused" in value:
            refused.append(
                Refused(
                    value["ledger"],
                    value["refused"],
                    value["code"],
                    value["reason"],
                    value["message"],
                )
            )
        elif "anchored" in value:
            anchored.append(
                Anchored(
                    value["ledger"],
                    value["anchored"],
                    bytes.fromhex(value["receiptHash"]),
                    value["logIndex"],
                    value["by"].encode(),
                    tuple(value["sinks"]),
                    value["byAll"],
                )
            )
        elif "head" in value:
            heads.append(Headed(value["ledger"], value["head"].encode(), value["with"].encode()))
        elif "contradicted" in value:
            contradicted.append(Contradicted(value["contradicted"], value["text"]))
        else:
            checkpoints.append(value["checkpoint"].encode())
    return History(
        sent,
        tuple(acknowledged),
        tuple(refused),
        tuple(checkpoints),
        tuple(anchored),
        tuple(heads),
        tuple(contradicted),
    )
