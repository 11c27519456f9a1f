"""Reads the log over HTTP while it grows and things break, and keeps what it was shown.

A reader takes a checkpoint and then entries that it covers, as c2sp.org/tlog-tiles has it. What it
was shown joins the record of checkpoints, and is compared with the log's own entries at the end.
"""

from __future__ import annotations

import asyncio
import http.client
import random
from collections import Counter
from collections.abc import Sequence

from provledger import checkpoint, note, tiles
from tests.faults.record import Record
from tests.faults.worker import Worker

TIMEOUT_S = 2.0
_PAUSE_S = 0.02
_EXPECTED = frozenset({200, 404, 503, 504})
"""What a gateway may say: whether 404 is right depends on what it said before."""


class Reader:
    """Reads one log at one gateway from a thread of its own, from `with` to its end.

    Raises AssertionError at the end if it was shown less than before, or was denied what a
    checkpoint had promised. `bundles` are what it was shown: (first log index, entries).
    """

    def __init__(self, name: str, port: int, log: str, record: Record, seed: int) -> None:
        """`name` is the gateway's; `log` is the path of the log, without slashes around it."""
        self._name = name
        self._port = port
        self._log = log
        self._record = record
        self._rng = random.Random(f"{name} {seed}")
        self._size = 0
        self._wrong: list[str] = []
        self._worker = Worker(f"reader at {name}", self._run)
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0
        self.bundles: list[tuple[int, Sequence[bytes]]] = []

    def __enter__(self) -> Reader:
        self._worker.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._worker.stop()
        self._worker.join(10 * TIMEOUT_S, "the reader hangs")
        if kind is None:
            self._worker.check()
            assert not self._wrong, f"at {self._name}: {self._wrong[:5]}"

    async def _run(self) -> None:
        self._worker.ready()
        while not self._worker.stopping:
            self._look()
            await asyncio.sleep(_PAUSE_S)

    def _look(self) -> None:
        status, shown = self._get("checkpoint")
        if status != http.HTTPStatus.OK:
            if status == http.HTTPStatus.NOT_FOUND:
                self._wrong.append(f"no checkpoint: {shown!r}")
            return
        self._record.checkpoint(shown)
        size = checkpoint.parse(note.parse(shown).text).size
        if size < self._size:
            self._wrong.append(f"a checkpoint of size {size} after one of size {self._size}")
        self._size = max(size, self._size)
        index = self._rng.randrange(size) // tiles.TILE_WIDTH
        width = min(tiles.TILE_WIDTH, size - index * tiles.TILE_WIDTH)
        # A partial bundle may be gone as soon as there is the full one.
        absent = []
        for path in (tiles.entries_path(index, width), tiles.entries_path(index)):
            status, bundle = self._get(path)
            if status == http.HTTPStatus.OK:
                entries = tiles.decode_bundle(bundle)
                self.bundles.append((index * tiles.TILE_WIDTH, entries))
                if len(entries) < width:
                    self._wrong.append(f"{path} has {len(entries)} entries")
            if status != http.HTTPStatus.NOT_FOUND:
                return
            absent.append(bundle)
        self._wrong.append(f"entries {index} of a checkpoint of size {size}: {absent}")

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a path of the log; status 0 if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/{self._log}/{path}")
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self.unanswered += 1
            return 0, b""
        finally:
            connection.close()
        self.statuses[response.status] += 1
        if response.status not in _EXPECTED:
            self._wrong.append(f"{response.status} for {path}: {body!r:.200}")
        return response.status, body
