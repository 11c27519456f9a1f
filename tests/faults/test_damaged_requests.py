"""Good requests for every RPC, damaged in one field: refused by typed errors, changing nothing.

Over real sockets, to services that have what the requests name. Whatever is accepted may do what it
says: damage can turn a request into another good one.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from provledger import jcs
from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.jwk import jwk_from_public_key
from provledger.rpc.channel import sync_channel
from provledger_cli.embedded.bootstrap import PURPOSES, local_key
from tests.faults.asking import TIMEOUT_S, ask, problem, reason
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import FULL, QUICK
from tests.faults.mutants import Mutant, mutants
from tests.support.anchoring import Ledger
from tests.support.good_requests import SERVICES, World, drafts, good_requests

MOST = None if FULL else 2
"""Values for each field."""
WAIT_S = 60.0

BY_STATE = {
    "CommitRotation": "KEY_LEDGER_KEPT",
    "ProposeGenesis": "KEY_LEDGER_EXISTS",
    "RebuildRegistry": "REGISTRY_NOT_EMPTY",
    "RebuildRegistryStream": "REGISTRY_NOT_EMPTY",
    "CancelRotation": "ROTATION_SEALED",
}
"""What good requests of these meet here, with every field as it should be."""

UNCHECKED = frozenset({"EndorseKeyEvent"})
"""What is named by a digest alone is found or not: there is no wrong form of one."""


@dataclass(frozen=True)
class Small:
    """A small installation, and what there is in it."""

    cluster: Cluster
    channels: dict[str, Any]
    world: World
    kids: dict[str, str]
    events: dict[str, keys_pb2.KeyEvent] = field(default_factory=dict)

    def good(self, service: str, method: str) -> list[Message]:
        """Good requests for an RPC."""
        kid = self.kids.get(service, self.world.kid)
        event = self.events.get(service, self.world.event)
        return good_requests(service, method, replace(self.world, kid=kid, event=event))

    @contextmanager
    def open_event(self, service: str) -> Iterator[None]:
        """An event that a service is asked to endorse, and that stays open meanwhile: the file of
        its new key is gone."""
        purpose = {"witness": "witness", "anchor": "checkpoint"}.get(service)
        if purpose is None:
            yield
            return
        stub, kid = keys_pb2_grpc.KeysServiceStub(self.channels["keys"]), f"open-{purpose}"
        uri, jwk = asyncio.run(local_key(self.cluster.data, kid, purpose))
        (self.cluster.data.keys / f"{kid}.pem").unlink()
        create = keys_pb2.CreateKeyRequest(kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk)
        stub.CreateKey(create, timeout=TIMEOUT_S)
        listed = stub.ListKeyEvents(keys_pb2.ListKeyEventsRequest(), timeout=TIMEOUT_S).events
        (self.events[service],) = (each.event for each in listed if each.event.kid == kid)
        yield
        stub.CancelRotation(keys_pb2.CancelRotationRequest(kid=kid), timeout=TIMEOUT_S)

    def state(self, service: str) -> dict[str, bytes]:
        """All of a service that requests can change, as far as nothing changes it by itself."""
        states = {"ledger": self._ledgers, "anchor": self._logs, "keys": self._keys}
        asked = states.values() if service == "witness" else [states[service]]
        return {name: value for each in asked for name, value in each()}

    def _ledgers(self) -> Iterator[tuple[str, bytes]]:
        stub = ledger_pb2_grpc.LedgerServiceStub(self.channels["ledger"])
        request = ledger_pb2.ListLedgersRequest(parent="tenants/-", page_size=1000)
        for each in stub.ListLedgers(request, timeout=TIMEOUT_S).ledgers:
            if not each.name.startswith("tenants/system/"):
                yield each.name, each.receipt_hash

    def _logs(self) -> Iterator[tuple[str, bytes]]:
        stub = anchor_pb2_grpc.AnchorServiceStub(self.channels["anchor"])
        uid = self.world.submitted_uid
        for log in stub.ListLogs(
            anchor_pb2.ListLogsRequest(page_size=1000), timeout=TIMEOUT_S
        ).logs:
            of = anchor_pb2.GetLedgerStateRequest(log=log.name, ledger_uid=uid)
            yield log.name, stub.GetLedgerState(of, timeout=TIMEOUT_S).receipt_hash
            for tenant in ("", self.world.tenant):
                wanted = anchor_pb2.GetPolicyRequest(log=log.name, tenant=tenant)
                policy = stub.GetPolicy(wanted, timeout=TIMEOUT_S).policy
                yield f"{log.name} {tenant}", policy.SerializeToString()

    def _keys(self) -> Iterator[tuple[str, bytes]]:
        stub = keys_pb2_grpc.KeysServiceStub(self.channels["keys"])
        request = keys_pb2.ListKeysRequest(page_size=1000)
        for key in stub.ListKeys(request, timeout=TIMEOUT_S).keys:
            yield key.name, f"{key.state} {key.epoch}".encode()
        events = stub.ListKeyEvents(keys_pb2.ListKeyEventsRequest(), timeout=TIMEOUT_S).events
        # Those that wait are endorsed meanwhile, by whoever can.
        yield "key events", b"".join(each.digest for each in events)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    # Requests to the anchor bring entries of ledgers that no ledger service has.
    options = {**QUICK, "PROVLEDGER_LEDGER_ANCHOR_IS_SHARED": "true"}
    cluster = Cluster(tmp_path_factory.mktemp("small") / "data", options=options)
    channels = {}
    try:
        cluster.start()
        for service in SERVICES:
            channels[service] = sync_channel(cluster.endpoint(service))
        yield _filled(cluster, channels)
    finally:
        for channel in channels.values():
            channel.close()
        cluster.close()


def _filled(cluster: Cluster, channels: dict[str, Any]) -> Small:
    ledgers = ledger_pb2_grpc.LedgerServiceStub(channels["ledger"])
    anchor = anchor_pb2_grpc.AnchorServiceStub(channels["anchor"])
    keys = keys_pb2_grpc.KeysServiceStub(channels["keys"])
    # With that, the ledger service has found the other services, however slowly they came up.
    events = _recorded_events(keys)
    tenant = "tenants/small"
    ledger = ledgers.CreateLedger(
        ledger_pb2.CreateLedgerRequest(parent=tenant), timeout=TIMEOUT_S
    ).ledger
    # One by one: all of what is asked for later is in the log, and that published.
    for each in drafts():
        each.request_id = f"first-{each.request_id}"
        receipt = ledgers.Append(
            ledger_pb2.AppendRequest(
                ledger=ledger.name, draft=each, wait_for=common_pb2.ANCHOR_STATE_ANCHORED
            ),
            timeout=TIMEOUT_S,
        ).receipt
    uid = ledger.uid
    sinks = anchor.ListSinks(anchor_pb2.ListSinksRequest(log=ledger.log), timeout=TIMEOUT_S)
    own_log = anchor.CreateLog(
        anchor_pb2.CreateLogRequest(tenant="tenants/other", suite=common_pb2.SUITE_BLAKE3),
        timeout=TIMEOUT_S,
    ).log
    by_purpose = {
        key.purpose: key.kid
        for key in keys.ListKeys(keys_pb2.ListKeysRequest(page_size=1000), timeout=TIMEOUT_S).keys
    }
    submitted = Ledger("submitted")
    submitted.grow(3)
    spare = Ed25519PrivateKey.generate().public_key()
    published = anchor.GetCheckpoint(
        anchor_pb2.GetCheckpointRequest(log=ledger.log, published=True), timeout=TIMEOUT_S
    )
    genesis = events[0]
    world = World(
        tenant=tenant,
        ledger=ledger.name,
        ledger_uid=uid,
        receipt=receipt.name,
        log=ledger.log,
        own_log=own_log.name,
        submitted_uid=submitted.uid,
        entries=submitted.entries,
        kid=by_purpose[keys_pb2.KEY_PURPOSE_WITNESS],
        spare_kid="spare",
        spare_jwk=jcs.encode(dict(jwk_from_public_key(spare))),
        recovery_kid="other-recovery",
        recovery_jwk=jcs.encode(
            dict(jwk_from_public_key(Ed25519PrivateKey.generate().public_key()))
        ),
        event=genesis.event,
        digest=genesis.digest,
        endorsements=genesis.endorsements,
        payloads=[each.payload for each in events],
        pin=genesis.event.thumbprint,
        policy=f"sink one {sinks.sinks[0].uri}\nquorum one\n",
        tree_size=published.tree_size,
    )
    kids = {"anchor": by_purpose[keys_pb2.KEY_PURPOSE_CHECKPOINT]}
    return Small(cluster, channels, world, kids)


def _recorded_events(keys: Any) -> list[keys_pb2.JournaledKeyEvent]:
    """The key ledger's events, once it has begun."""
    recorded: list[keys_pb2.JournaledKeyEvent] = []

    def began() -> bool:
        listed = keys.ListKeyEvents(keys_pb2.ListKeyEventsRequest(), timeout=TIMEOUT_S).events
        recorded[:] = (each for each in listed if each.state == keys_pb2.KEY_EVENT_STATE_RECORDED)
        return bool(recorded)

    eventually(began, "the key ledger begins", WAIT_S)
    return recorded


# The ledger last: what it appends makes partial tiles full ones.
@pytest.mark.parametrize("service", sorted(SERVICES, key="ledger".__eq__))
def test_what_is_damaged_is_refused_and_changes_nothing(
    small: Small, rng: random.Random, service: str
) -> None:
    with small.open_event(service):
        _check_damaged(small, rng, service)


def _check_damaged(small: Small, rng: random.Random, service: str) -> None:
    channel = small.channels[service]
    avoid = frozenset({*small.kids.values(), small.world.kid})
    wrong: list[str] = []
    for method in SERVICES[service].methods:
        codes: Counter[str] = Counter()
        for number, good in enumerate(small.good(service, method.name)):
            asked = ask(channel, method, good.SerializeToString())
            says = "" if asked.error is None else reason(asked.error)
            assert says == BY_STATE.get(method.name, ""), (method.name, asked)
            before = small.state(service)
            for place, mutant in enumerate(mutants(good, rng, most=MOST, avoid=avoid)):
                data = _with_new_ids(good, mutant, f"{number}-{place}")
                asked = ask(channel, method, data)
                codes[asked.code] += 1
                if says := problem(asked, method):
                    wrong.append(f"{method.name} {mutant.field} {data[:200]!r}: {says}")
                after = small.state(service)
                if after != before and asked.error is not None:
                    wrong.append(f"{method.name} {mutant.field}: {asked.error} changed something")
                before = after
        print(method.name, dict(codes))
        if method.input_type.fields and method.name not in UNCHECKED:
            assert codes["INVALID_ARGUMENT"] > 0, method.name
    assert not wrong, "\n".join(wrong[:20])
    assert all(each.running for each in small.cluster.services.values())


def _with_new_ids(good: Message, mutant: Mutant, label: str) -> bytes:
    """A mutant whose drafts are new ones: of a repeat, other fields are not even looked at."""
    if mutant.field.endswith("request_id"):
        return mutant.data
    kind: Any = type(good)
    found = kind()
    try:
        found.ParseFromString(mutant.data)
    except Exception:
        return mutant.data
    fields = found.DESCRIPTOR.fields_by_name
    some = []
    if "draft" in fields and found.HasField("draft"):
        some.append(found.draft)
    if "drafts" in fields:
        some.extend(found.drafts)
    if not some or len(some) > 100:
        return mutant.data
    for place, each in enumerate(some):
        each.request_id = f"{label}-{place}"
    return bytes(found.SerializeToString())


def test_services_are_whole_afterwards(small: Small) -> None:
    """They record, log and anchor, and what is stored verifies."""
    ledgers = ledger_pb2_grpc.LedgerServiceStub(small.channels["ledger"])
    (draft, *_) = drafts()
    draft.request_id = "last"
    answer = ledgers.Append(
        ledger_pb2.AppendRequest(
            ledger=small.world.ledger, draft=draft, wait_for=common_pb2.ANCHOR_STATE_LOGGED
        ),
        timeout=TIMEOUT_S,
    )
    assert answer.receipt.proofs
    verified = ledgers.VerifyRange(
        ledger_pb2.VerifyRangeRequest(
            name=small.world.ledger, start_seq=0, end_seq=answer.receipt.seq
        ),
        timeout=TIMEOUT_S,
    )
    assert verified.head_seq == answer.receipt.seq
