"""A small log of made-up leaves with its signed checkpoints, and a notary on a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from notary_svc.app import serve
from notary_svc.config import Settings
from provledger import _base64, checkpoint, merkle, note

ORIGIN = "log.test/one"
NOTARY = "notary.test"
NOW_S = 1_800_000_000


class TinyLog:
    """A log in memory. `fork` gives one that shares the first leaves and differs after them."""

    def __init__(self, origin: str = ORIGIN, *, seed: str = "log", fork_at: int | None = None):
        self.origin = origin
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(
            hashlib.sha256(seed.encode()).digest()
        )
        raw = self._key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.vkey = note.format_vkey(origin, note.ED25519, raw)
        self.key = note.parse_vkey(self.vkey)
        self._fork_at = fork_at

    def leaves(self, size: int) -> list[bytes]:
        """Leaf hashes."""
        return [
            merkle.leaf_hash(
                f"{i}{'x' if self._fork_at is not None and i >= self._fork_at else ''}".encode()
            )
            for i in range(size)
        ]

    def root(self, size: int) -> bytes:
        """The root of a size."""
        return merkle.root_of_hashes(self.leaves(size))

    def sign(self, text: bytes) -> bytes:
        """A note over any text."""
        line = note.signature_line(self.origin, self.key.note_key_id, self._key.sign(text))
        return note.format_note(text, [line])

    def checkpoint(self, size: int, extra: bytes = b"") -> bytes:
        """A signed checkpoint."""
        return self.sign(checkpoint.format(self.origin, size, self.root(size)) + extra)

    def proof(self, old: int, new: int) -> list[bytes]:
        """A consistency proof."""
        return merkle.consistency_proof(self.leaves(new), old)

    def request(self, old: int, new: int, **changes: object) -> bytes:
        """The body of an add-checkpoint request."""
        proof = changes.get("proof", self.proof(old, new) if old <= new else [])
        signed = changes.get("signed", self.checkpoint(new))
        return request_body(old, proof, signed)  # type: ignore[arg-type]


def request_body(old: object, proof: list[bytes], signed: bytes) -> bytes:
    """The body of an add-checkpoint request, of whatever is given."""
    lines = "".join(f"{_base64.encode(item)}\n" for item in proof)
    return f"old {old}\n{lines}\n".encode() + signed


@asynccontextmanager
async def running_notary(
    directory: Path,
    logs: list[TinyLog],
    *,
    clock: Callable[[], int] = lambda: NOW_S * 1_000_000_000,
    name: str = NOTARY,
    **given: Any,
) -> AsyncIterator[str]:
    """The address of a notary that serves, as host:port."""
    directory.mkdir(exist_ok=True)
    policy = directory / "logs.policy"
    policy.write_text("".join(f"log {log.vkey}\n" for log in logs) + "quorum none\n")
    settings = Settings(name=name, data_dir=directory / "data", logs=policy, **given)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.ensure_future(
        serve(settings, clock=clock, on_ready=ready.set_result, stop=stop)
    )
    try:
        waiting: set[asyncio.Future] = {serving, ready}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield f"127.0.0.1:{ready.result()}"
    finally:
        stop.set()
        await serving


async def call(address: str, method: str, path: str, body: bytes = b"") -> tuple[int, str, bytes]:
    """Status, content type and body of an answer."""

    def send() -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"] or "", answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(send)
