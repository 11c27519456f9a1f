"""A log of the anchor service on a real database and real files, and ledgers to fill it with.

Nothing of the service is imitated but its keys: `TestKeys` holds the checkpoint and head keys of
`tests.support.chain` in memory, and can be told to be away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anchor_svc.committer import Outcome
from anchor_svc.keys import LogKeys, vkey
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import OpenLogs
from anchor_svc.recovery import create_log
from anchor_svc.servicer import AnchorServicer
from anchor_svc.sinks import AnchorSink
from anchor_svc.storage import DEFAULT_ALIAS, Storage
from anchor_svc.storage.sql import SQLStorage
from anchor_svc.storage.tables import MIGRATIONS, SCHEMA
from anchor_svc.submission import parse_submission
from anchor_svc.tilefiles import TileFiles
from provledger import checkpoint as checkpoints
from provledger import merkle, note
from provledger.db import migrate, open_engine
from provledger.entry import Entry, receipt_hash
from provledger.errors import StatusError, UnavailableError
from provledger.hashing import suite
from provledger.jwk import Algorithm, thumbprint_of
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms.errors import KMSUnavailableError
from provledger.policy import Policy
from tests.inmem.faults import rpc_error
from tests.support.chain import START_NS, private_key

KIDS = {
    KeyPurpose.CHECKPOINT: "checkpoint-1",
    KeyPurpose.HEAD: "head-1",
    KeyPurpose.RECEIPT: "receipt-1",
}
LOG_UID = bytes.fromhex("00112233445566778899aabbccddeeff")


class MemorySigner:
    """A key in memory; `fail` makes every signature fail until it is cleared."""

    def __init__(self, kid: str) -> None:
        self._private_key = private_key(kid)
        self.uri = f"memory:{kid}"
        self.algorithm = Algorithm.ED25519
        self.public_key = self._private_key.public_key()
        self.fail = False
        self.signed: list[bytes] = []

    async def sign(self, message: bytes) -> bytes:
        if self.fail:
            raise KMSUnavailableError("the test has switched the key off")
        self.signed.append(message)
        return self._private_key.sign(message)

    async def close(self) -> None:
        return None


class TestKeys:
    """Checkpoint and head keys, always active; `away` makes the lease end."""

    __test__ = False

    def __init__(self) -> None:
        self.signers = {purpose: MemorySigner(kid) for purpose, kid in KIDS.items()}
        self.away = False

    def current(self, purpose: KeyPurpose | str) -> ActiveSigner:
        if self.away:
            raise UnavailableError("KEY_LEASE_EXPIRED", "the test has taken the keys away")
        signer = self.signers[KeyPurpose(purpose)]
        return ActiveSigner(
            kid=KIDS[KeyPurpose(purpose)],
            purpose=KeyPurpose(purpose),
            epoch=1,
            thumbprint=thumbprint_of(signer.public_key),
            public_key=signer.public_key,
            algorithm=signer.algorithm,
            signer=signer,
            not_before_ns=0,
            not_after_ns=None,
        )


class Ledger:
    """A chain of entries: made up, but well-formed and linked."""

    def __init__(self, label: str = "ledger", suite_name: str = "blake3") -> None:
        self.label = label
        self.uid = self._digest("uid")[:16]
        self.suite = suite_name
        self.entries: list[bytes] = []
        self.last: bytes | None = None

    def grow(self, count: int, *, salt: str = "") -> list[bytes]:
        """Append that many entries; returns them."""
        made = []
        for seq in range(len(self.entries), len(self.entries) + count):
            data = Entry(
                ledger_uid=self.uid,
                suite=self.suite,
                seq=seq,
                t_ns=START_NS + seq,
                prev=self.last,
                statement=self._digest(f"{salt}statement{seq}"),
                payload=self._digest(f"{salt}payload{seq}"),
                signature=self._digest(f"signature{seq // 100}"),
            ).encode()
            self.last = receipt_hash(self.suite, data)
            made.append(data)
        self.entries += made
        return made

    def hash_of(self, seq: int) -> bytes:
        """Receipt hash of one entry."""
        return receipt_hash(self.suite, self.entries[seq])

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.label}/{text}".encode()).digest()


def open_storage(database_url: str) -> SQLStorage:
    """The anchor's storage on a database, migrated."""
    engine = open_engine(database_url, SCHEMA)
    migrate(engine, MIGRATIONS, SCHEMA)
    return SQLStorage(engine)


def make_log(
    storage: Storage,
    row: Any,
    data_dir: Path,
    keys: TestKeys,
    sinks: Sequence[AnchorSink] = (),
    *,
    publish_interval_s: float = 0.01,
    clock: Callable[[], int] = lambda: START_NS,
    policy: Policy | None = None,
    batch_budget_s: float = 0.0,
    files: TileFiles | None = None,
    wait_for_sinks: bool = False,
) -> OpenLog:
    """A log, not yet opened, with settings for tests."""
    return OpenLog(
        row,
        storage,
        data_dir,
        keys,
        sinks,
        publish_interval_s=publish_interval_s,
        sink_deadline_s=5.0,
        max_batch_leaves=1000,
        max_queued_leaves=20_000,
        clock=clock,
        policy=policy,
        batch_budget_s=batch_budget_s,
        files=files,
        wait_for_sinks=wait_for_sinks,
    )


def keys_of(log: OpenLog) -> TestKeys:
    """The keys that a log of `make_log` was given."""
    keys = log.committer._keys
    assert isinstance(keys, LogKeys)
    assert isinstance(keys._keys, TestKeys)
    return keys._keys


async def new_row(storage: Storage, keys: TestKeys, suite_name: str = "blake3") -> Any:
    """The default log's row, which is made if it is missing."""
    found = await storage.default_log()
    if found is not None:
        return found
    key = keys.current(KeyPurpose.CHECKPOINT)
    return await create_log(
        storage,
        origin_prefix="provledger.test",
        suite_name=suite_name,
        keys=[(key.kid, key.thumbprint)],
        now_ns=START_NS,
        log_uid=LOG_UID,
    )


@asynccontextmanager
async def running_log(
    database_url: str,
    data_dir: Path,
    *,
    keys: TestKeys | None = None,
    sinks: Sequence[AnchorSink] = (),
    suite_name: str = "blake3",
    background: bool = False,
    wrap: Callable[[Storage], Storage] = lambda storage: storage,
    prepare: Callable[[OpenLog], None] = lambda log: None,
    publish_interval_s: float = 0.01,
    clock: Callable[[], int] = lambda: START_NS,
    policy: Policy | None = None,
    batch_budget_s: float = 0.0,
    files: TileFiles | None = None,
    wait_for_sinks: bool = False,
) -> AsyncIterator[OpenLog]:
    """An open log, made if there is none; closed, not killed, at the end.

    wrap: puts something between the log and its storage. prepare: is given the log before it opens.
    background: runs what a service runs beside the RPCs.
    """
    keys = keys or TestKeys()
    inner = await asyncio.to_thread(open_storage, database_url)
    tasks: list[asyncio.Future[None]] = []
    try:
        storage = wrap(inner)
        row = await new_row(inner, keys, suite_name)
        log = make_log(
            storage,
            row,
            data_dir,
            keys,
            sinks,
            publish_interval_s=publish_interval_s,
            clock=clock,
            policy=policy,
            batch_budget_s=batch_budget_s,
            files=files,
            wait_for_sinks=wait_for_sinks,
        )
        prepare(log)
        try:
            await log.open()
            if background:
                tasks = [asyncio.ensure_future(work()) for work in log.background]
            yield log
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await log.close()
    finally:
        await inner.close()


class OneLog:
    """Stands in for `AnchorServiceStub`: the service of one open log, without a server."""

    def __init__(self, log: OpenLog, keys: TestKeys) -> None:
        storage = log._storage
        logs = OpenLogs(_never, _never, storage.logs, storage.ledger_count, _never, max_logs=0)
        logs._by_uid[log.identity.uid] = logs._by_alias[DEFAULT_ALIAS] = log
        self._servicer = AnchorServicer(logs, keys)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._servicer, name)

        async def answer(request: Any, **_: Any) -> Any:
            try:
                return await method(request, None)
            except StatusError as error:
                raise rpc_error(error) from error

        return answer


def _never(*_: Any) -> Any:
    raise AssertionError


async def submit(log: OpenLog, ledger: Ledger, start: int = 0, end: int | None = None) -> Outcome:
    """Submit some of a ledger's entries."""
    entries = ledger.entries[start:end]
    return await log.submit(
        parse_submission(ledger.uid, ledger.suite, start, entries, log.identity.hasher)
    )


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something becomes true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a condition of any kind
            await asyncio.sleep(0.002)


def log_vkey(log: OpenLog, keys: TestKeys | None = None) -> str:
    """The verifier key of a log's checkpoints."""
    key = (keys or TestKeys()).current(KeyPurpose.CHECKPOINT)
    return vkey(key, log.identity.origin)


def roots(leaf_data: Sequence[bytes], suite_name: str = "blake3") -> bytes:
    """Root over leaves, by the plain definition."""
    return merkle.root(leaf_data, suite(suite_name).tree)


def read_entries(log: OpenLog) -> list[bytes]:
    """All entries that the newest signed checkpoint covers: bundles from disk, then the edge."""
    view = log.state.signed_view()
    entries: list[bytes] = []
    for index in range(view.edge.size // 256):
        entries += log.store.read_bundle(index)
    return [*entries, *view.edge.entries][: view.size]


async def check_log(
    log: OpenLog,
    ledgers: Sequence[Ledger],
    keys: TestKeys,
    *,
    let_out: Sequence[bytes] | None = None,
) -> None:
    """Check everything there is to check of a log that holds exactly these ledgers, whole.

    The tree is computed again from the entries by the plain definition; nothing of what made it is
    used. let_out: the notes that left their process, where others were signed and thrown away.
    """
    view = log.state.signed_view()
    opened, _ = checkpoints.open_checkpoint(
        view.note, [log_vkey(log)], log.identity.origin, exact=True
    )
    hasher = log.identity.hasher
    entries = read_entries(log)
    hashes = merkle.leaf_hashes(entries, hasher)
    assert opened.size == view.size == len(entries) == 1 + sum(len(x.entries) for x in ledgers)
    assert opened.root == merkle.root_of_hashes(hashes, hasher)
    level, nodes = 0, hashes
    while nodes:
        for index in range(len(nodes) // 256):
            tile = nodes[256 * index : 256 * index + 256]
            assert log.store.read_tile(level, index) == b"".join(tile), (level, index)
        full = range(len(nodes) // 256)
        nodes = [merkle.root_of_hashes(nodes[256 * i : 256 * i + 256], hasher) for i in full]
        level += 1
    for ledger in ledgers:
        own = set(ledger.entries)
        places = [place for place, entry in enumerate(entries) if entry in own]
        assert [entries[place] for place in places] == ledger.entries
        for start in range(0, len(ledger.entries), 1000):
            seqs = range(start, min(start + 1000, len(ledger.entries)))
            proven = await log.reader.batch_inclusion(ledger.uid, list(seqs), view.size)
            assert [(p.seq, p.log_index) for p in proven.proofs] == [(s, places[s]) for s in seqs]
            for proof in proven.proofs:
                path = [proof.hashes[at : at + 32] for at in range(0, len(proof.hashes), 32)]
                merkle.verify_inclusion(
                    proof.log_index, view.size, hashes[proof.log_index], path, opened.root, hasher
                )
    # SPEC: never two heads of one size (design §4, "Log").
    texts = keys.signers[KeyPurpose.CHECKPOINT].signed
    if let_out is not None:
        texts = [note.parse(each).text for each in let_out]
    signed = [checkpoints.parse(text) for text in texts]
    assert len({head.size for head in signed}) == len({(head.size, head.root) for head in signed})
    for head in signed:
        assert head.root == merkle.root_of_hashes(hashes[: head.size], hasher)
