"""A held log signs nothing, whichever RPC is asked. On both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from anchor_svc.openlogs import OpenLogs
from anchor_svc.recovery import create_log
from anchor_svc.restored import MARKER
from anchor_svc.servicer import AnchorServicer
from anchor_svc.storage import LogRow
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.common.v1 import common_pb2
from provledger.errors import FailedPreconditionError, StatusError, UnavailableError
from provledger.key_events import Endorsement, KeyEvent
from provledger.keyset import KeyPurpose
from provledger.rpc.key_events import event_to_pb
from tests.support.anchoring import (
    LOG_UID,
    Ledger,
    TestKeys,
    make_log,
    new_row,
    open_storage,
    running_log,
    submit,
)
from tests.support.chain import START_NS
from tests.support.key_history import GENESIS

RPCS = [method.name for method in pb.DESCRIPTOR.services_by_name["AnchorService"].methods]
SIGN = {"SubmitLeaves", "GetLedgerHead", "GetCoseReceipt", "CreateLog", "SignKeyEvent"}
"""What makes a signature where nothing is held."""
ALSO_REFUSED = {"GetLedgerState"}
"""A ledger that hears how far it is begins to append."""
LOG = f"logs/{LOG_UID.hex()}"
TENANT = "tenants/acme"


class Ring:
    """Endorses whatever it is asked to."""

    def __init__(self, keys: TestKeys) -> None:
        self._keys = keys

    async def endorse(self, event: KeyEvent, kid: str) -> Endorsement:
        signer = self._keys.signers[KeyPurpose.CHECKPOINT]
        return Endorsement(kid, bytes(32), await signer.sign(event.encode()))


def request_for(rpc: str, ledger: Ledger) -> Message:
    """A good request; KeyError for an RPC that is new: is it to be refused while a log is held?"""
    uid = ledger.uid
    event = event_to_pb(GENESIS)
    requests: dict[str, Message] = {
        "GetLog": pb.GetLogRequest(name=LOG, with_tenants=True),
        "ListLogs": pb.ListLogsRequest(),
        "GetTile": pb.GetTileRequest(log=LOG, path="tile/0/000.p/21"),
        "CreateLog": pb.CreateLogRequest(tenant=TENANT, suite=common_pb2.SUITE_BLAKE3),
        "SubmitLeaves": pb.SubmitLeavesRequest(
            log=LOG,
            ledger_uid=uid,
            suite=common_pb2.SUITE_BLAKE3,
            start_seq=len(ledger.entries) - 1,
            entries=ledger.entries[-1:],
        ),
        "GetLedgerState": pb.GetLedgerStateRequest(log=LOG, ledger_uid=uid),
        "GetInclusionProof": pb.GetInclusionProofRequest(log=LOG, log_index=1),
        "GetCoseReceipt": pb.GetCoseReceiptRequest(log=LOG, log_index=1),
        "BatchGetInclusionProofs": pb.BatchGetInclusionProofsRequest(
            log=LOG, ledger_uid=uid, seqs=[0, 1]
        ),
        "GetConsistencyProof": pb.GetConsistencyProofRequest(log=LOG, old_size=1),
        "GetCheckpoint": pb.GetCheckpointRequest(log=LOG),
        "WatchCheckpoints": pb.WatchCheckpointsRequest(log=LOG),
        "GetLedgerHead": pb.GetLedgerHeadRequest(log=LOG, ledger_uid=uid),
        "ListAnchors": pb.ListAnchorsRequest(log=LOG),
        "ListSinks": pb.ListSinksRequest(log=LOG),
        "RetrySink": pb.RetrySinkRequest(log=LOG),
        "SetPolicy": pb.SetPolicyRequest(log=LOG, tenant=TENANT, validate_only=True),
        "GetPolicy": pb.GetPolicyRequest(log=LOG),
        "SignKeyEvent": pb.SignKeyEventRequest(event=event, kid="checkpoint-1"),
    }
    return requests[rpc]


class Held:
    """A servicer whose one log of 21 leaves is held."""

    def __init__(self, logs: OpenLogs, keys: TestKeys, ledger: Ledger) -> None:
        self.logs = logs
        self.ledger = ledger
        self._keys = keys
        ring: Any = Ring(keys)
        self._servicer = AnchorServicer(logs, keys, ring)

    @property
    def signatures(self) -> int:
        return sum(len(signer.signed) for signer in self._keys.signers.values())

    async def log(self, name: str) -> pb.Log:
        answer = await self._servicer.GetLog(pb.GetLogRequest(name=name), None)
        return answer.log

    async def count(self, name: str) -> int:
        request = pb.GetLogRequest(name=name, count_ledgers=True)
        return int((await self._servicer.GetLog(request, None)).ledger_count)

    async def listed(self) -> list[pb.Log]:
        answer = await self._servicer.ListLogs(pb.ListLogsRequest(), None)
        return list(answer.logs)

    async def ask(self, rpc: str) -> None:
        """Call it, or take the first answer of a stream."""
        answer = getattr(self._servicer, rpc)(request_for(rpc, self.ledger), None)
        if hasattr(answer, "__anext__"):
            await anext(answer)
            await answer.aclose()
        else:
            await answer


@asynccontextmanager
async def held(url: str, data_dir: Path) -> AsyncIterator[Held]:
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(20)
    async with running_log(url, data_dir) as log:
        await submit(log, ledger)
        ledger.grow(1)
        await log.publisher.publish(log.state.signed_view())
    (data_dir / "logs" / LOG_UID.hex() / MARKER).write_text("{}")
    storage = open_storage(url)

    async def create_row(tenant: str, suite_name: str) -> LogRow:
        key = keys.current(KeyPurpose.CHECKPOINT)
        return await create_log(
            storage,
            origin_prefix="provledger.test",
            suite_name=suite_name,
            keys=[(key.kid, key.thumbprint)],
            now_ns=START_NS,
            alias=tenant,
        )

    async def unsigned(uid: bytes) -> int:
        return 0

    logs = OpenLogs(
        lambda row: make_log(storage, row, data_dir, keys),
        create_row,
        storage.logs,
        storage.ledger_count,
        unsigned,
        max_logs=2,
    )
    try:
        await logs.open(await new_row(storage, keys))
        yield Held(logs, keys, ledger)
    finally:
        await logs.close()
        await storage.close()


@pytest.mark.parametrize("rpc", RPCS)
async def test_nothing_is_signed_while_held(database_url: str, tmp_path: Path, rpc: str) -> None:
    """And what is refused for that goes on, and signs, when it is confirmed."""
    async with held(database_url, tmp_path) as one:
        if rpc in SIGN | ALSO_REFUSED:
            with pytest.raises(UnavailableError) as caught:
                await one.ask(rpc)
            assert caught.value.reason == "RESTORE_NOT_CONFIRMED"
        else:
            await one.ask(rpc)
        assert one.signatures == 0
        assert len(one.logs.all()) == 1

        one.logs.default.state.held = None
        await one.ask(rpc)
        assert bool(one.signatures) == (rpc in SIGN)


async def test_it_is_shown_why_a_log_is_held(database_url: str, tmp_path: Path) -> None:
    async with held(database_url, tmp_path) as one:
        for name in (LOG, f"logs/{LOG_UID.hex()}"):
            assert "restored from a backup" in (await one.log(name)).held
        assert [each.held != "" for each in await one.listed()] == [True]
        one.logs.default.state.held = None
        assert (await one.log(LOG)).held == ""
        assert [each.held for each in await one.listed()] == [""]


@pytest.mark.parametrize("held_one", ["shared", "own"])
async def test_ledgers_are_not_counted_while_one_of_the_logs_is_held(
    database_url: str, tmp_path: Path, held_one: str
) -> None:
    """It may lack some: the number is of all logs, whichever is asked for."""
    async with held(database_url, tmp_path) as one:
        shared = one.logs.default
        why, shared.state.held = shared.state.held, None
        own, _ = await one.logs.create(TENANT, "blake3")
        (shared if held_one == "shared" else own).state.held = why
        for name in (LOG, f"logs/{own.identity.uid.hex()}"):
            with pytest.raises(UnavailableError) as caught:
                await one.count(name)
            assert caught.value.reason == "RESTORE_NOT_CONFIRMED"
            assert (await one.log(name)).name == name
        shared.state.held = own.state.held = None
        assert await one.count(LOG) == 1


async def test_what_was_intended_is_not_signed_before_the_sinks_were_asked(
    database_url: str, tmp_path: Path
) -> None:
    """A snapshot was put back that ends between the commit of a head and its signature."""
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(20)
    async with running_log(database_url, tmp_path, keys=keys) as log:
        keys.signers[KeyPurpose.CHECKPOINT].fail = True
        with pytest.raises(StatusError):
            await submit(log, ledger)
    keys.signers[KeyPurpose.CHECKPOINT].fail = False
    signed = [len(signer.signed) for signer in keys.signers.values()]

    def remember_more(log: Any) -> None:
        async def look() -> None:
            assert [len(signer.signed) for signer in keys.signers.values()] == signed
            log.state.held = FailedPreconditionError("RESTORED_BEHIND", "there is more")

        log.restored.look = look

    async with running_log(database_url, tmp_path, keys=keys, prepare=remember_more) as log:
        assert log.state.signed_size == 1
    assert [len(signer.signed) for signer in keys.signers.values()] == signed
    async with running_log(database_url, tmp_path, keys=keys) as log:
        assert log.state.signed_size == 21
