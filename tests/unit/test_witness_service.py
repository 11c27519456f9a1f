"""A call of the witness from end to end, in process: outcomes, order, bounds, and turns."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from typing import Any

import orjson
import pytest

from provledger import disclosure, jcs, merkle, names, witness_batch
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2 as pb
from provledger.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.hashing import SUITES
from provledger.rpc.errors import status_from_pb
from provledger.statement import parse_statement
from tests.support.chain import START_NS
from tests.unit.test_witness_signing import FakeKeys, FakeKMS, active, batch_signer, turns
from witness_svc import witness as witness_module
from witness_svc.servicer import WitnessServicer
from witness_svc.signing import BatchSigner
from witness_svc.witness import Witness

LEDGER = "tenants/acme/ledgers/main"
UID = bytes(range(16))
ANSWER_BYTES = 15 * 1024 * 1024


def servicer(
    kms: FakeKMS | None = None, *, signer: BatchSigner | None = None, **changes: Any
) -> WitnessServicer:
    values = {"max_in_work": 20_000, "max_answer_bytes": ANSWER_BYTES}
    witness = Witness(
        signer or batch_signer(FakeKeys(active(kms or FakeKMS())), max_queued_statements=20_000),
        **(values | changes),
    )
    return WitnessServicer(witness, clock=lambda: START_NS, max_items=1000)


def create(index: int, state: bytes = b'{"a":1}', **changes: Any) -> pb.WitnessItem:
    mutation = common_pb2.Mutation(
        action=common_pb2.ACTION_CREATE,
        resource_type="Version",
        resource_id=f"redis/{index}",
        new_state=state,
    )
    draft = common_pb2.Draft(
        request_id=f"r-{index}", actor=common_pb2.Actor(id="bot"), mutation=mutation
    )
    values: dict[str, Any] = {
        "receipt_id": names.uuid7(START_NS, index.to_bytes(10, "big")),
        "principal": "anonymous",
        "draft": draft,
    }
    return pb.WitnessItem(**(values | changes))


def request(items: list[pb.WitnessItem], **changes: Any) -> pb.WitnessBatchRequest:
    values: dict[str, Any] = {"ledger": LEDGER, "ledger_uid": UID, "suite": common_pb2.SUITE_BLAKE3}
    return pb.WitnessBatchRequest(items=items, **(values | changes))


async def ask(service: WitnessServicer, asked: pb.WitnessBatchRequest) -> pb.WitnessBatchResponse:
    return await service.WitnessBatch(asked, None)


def rejections(response: pb.WitnessBatchResponse) -> dict[int, StatusError]:
    return {
        index: status_from_pb(result.rejection)
        for index, result in enumerate(response.results)
        if result.HasField("rejection")
    }


def leaves_of(response: pb.WitnessBatchResponse) -> list[bytes]:
    data = response.leaf_hashes
    return [data[start : start + 32] for start in range(0, len(data), 32)]


class TestOutcomes:
    @pytest.mark.parametrize("suite", ["blake3", "blake3-all", "fips"])
    async def test_everything_a_ledger_needs_is_in_the_answer(self, suite: str) -> None:
        kms = FakeKMS()
        number = common_pb2.Suite.Value("SUITE_" + suite.upper().replace("-", "_"))
        asked = request([create(0), create(1)], suite=number)
        response = await ask(servicer(kms), asked)
        leaves = leaves_of(response)
        body = witness_batch.parse_body(response.body)
        assert (body.suite, body.kid, response.kid, response.epoch) == (
            suite,
            "witness-1",
            "witness-1",
            1,
        )
        for item, result in zip(asked.items, response.results, strict=True):
            made = result.witnessed
            statement = parse_statement(made.statement)
            assert statement.ledger == LEDGER
            assert statement.ledger_uid == UID
            assert statement.receipt_id == names.receipt_id_text(item.receipt_id)
            assert statement.request_id == item.draft.request_id
            assert statement.principal == "anonymous"
            assert statement.witnessed_at_ns == START_NS
            assert statement.payload_hash == made.payload_hash
            assert (made.receipt_type, made.profile) == ("mutation", "fields-v1")
            commitment = disclosure.commit_fields(
                jcs.parse(made.payload), made.secret, mutation=True
            )
            assert commitment.root == made.payload_hash
            assert commitment.size == made.commitment_size
            leaf = witness_batch.statement_leaf_hash(suite, made.statement)
            path = merkle.inclusion_proof(leaves, made.batch_index, hasher=SUITES[suite].H)
            witness_batch.verify_batch_path(suite, body, made.batch_index, leaf, path)

    async def test_a_bad_draft_does_not_touch_its_neighbours(self) -> None:
        bad = {
            1: (create(1, b'{"a":1,"a":2}'), "INVALID_JSON", "mutation.new_state"),
            3: (create(3, b"null"), "STATE_MISSING", "mutation.new_state"),
            4: (create(4, draft=common_pb2.Draft()), "INVALID_IDENTIFIER", "request_id"),
            6: (create(6, receipt_id=b"short"), "INVALID_IDENTIFIER", "receipt_id"),
            7: (create(7, principal=""), "INVALID_IDENTIFIER", "principal"),
        }
        asked = [bad[index][0] if index in bad else create(index) for index in range(9)]
        response = await ask(servicer(), request(asked))
        refused = rejections(response)
        assert sorted(refused) == sorted(bad)
        for index, (_, reason, field) in bad.items():
            error = refused[index]
            assert isinstance(error, InvalidArgumentError)
            assert (error.reason, error.violations[0].field) == (reason, field)
        passed = [r.witnessed for r in response.results if r.HasField("witnessed")]
        assert [made.batch_index for made in passed] == [0, 1, 2, 3]
        assert [parse_statement(made.statement).request_id for made in passed] == [
            "r-0",
            "r-2",
            "r-5",
            "r-8",
        ]

    async def test_where_nothing_passes_nothing_is_signed(self) -> None:
        kms = FakeKMS()
        response = await ask(servicer(kms), request([create(0, b"null"), create(1, b"{")]))
        assert len(rejections(response)) == 2
        assert (response.body, response.sig, response.leaf_hashes, response.kid) == (
            b"",
            b"",
            b"",
            "",
        )
        assert kms.calls == 0

    async def test_system_types_pass_for_the_system_only(self) -> None:
        document = common_pb2.Document(
            receipt_type="ledger.created",
            media_type="application/json",
            payload=b"{}",
            resource_type="Ledger",
            resource_id="main",
        )
        draft = common_pb2.Draft(
            request_id="r", actor=common_pb2.Actor(id="bot"), document=document
        )
        item = create(0, draft=draft)
        refused = rejections(await ask(servicer(), request([item])))
        assert refused[0].reason == "RECEIPT_TYPE_RESERVED"
        response = await ask(servicer(), request([item], system=True))
        assert response.results[0].witnessed.receipt_type == "ledger.created"

    async def test_secrets_and_salts_are_fresh_and_drawn_once_for_a_call(self) -> None:
        drawn = []

        def random(count: int) -> bytes:
            drawn.append(count)
            return os.urandom(count)

        response = await ask(
            servicer(random=random), request([create(index) for index in range(20)])
        )
        assert len(drawn) == 1
        made = [result.witnessed for result in response.results]
        assert len({item.secret for item in made}) == 20
        assert len({parse_statement(item.statement).salt for item in made}) == 20
        assert {len(item.secret) for item in made} == {32}

    async def test_origin_is_stated_and_unknown_actions_are_refused(self) -> None:
        item = create(0)
        item.draft.origin.service = "billing"
        item.draft.origin.upstream_events.extend(["git:1"])
        other = create(1)
        other.draft.mutation.action = 77  # type: ignore[assignment]
        many = create(2)
        many.draft.origin.upstream_events.extend(["x"] * 5000)
        response = await ask(servicer(), request([item, other, many]))
        statement = parse_statement(response.results[0].witnessed.statement)
        assert (statement.origin_service, statement.upstream_events) == ("billing", ("git:1",))
        refused = rejections(response)
        assert refused[1].reason == "ACTION_INVALID"
        assert refused[2].violations[0].field == "origin.upstream_events"


class TestCall:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"ledger": "acme"}, "ledger"),
            ({"ledger": ""}, "ledger"),
            ({"ledger_uid": b"short"}, "ledger_uid"),
            ({"suite": common_pb2.SUITE_UNSPECIFIED}, "suite"),
            ({"suite": 99}, "suite"),
        ],
    )
    async def test_a_fault_of_the_call_itself_fails_it(
        self, changes: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgumentError) as caught:
            await ask(servicer(), request([create(0)], **changes))
        assert caught.value.violations[0].field == field

    @pytest.mark.parametrize("count", [0, 1001])
    async def test_number_of_items_is_bounded(self, count: int) -> None:
        with pytest.raises(InvalidArgumentError) as caught:
            await ask(servicer(), request([create(index) for index in range(count)]))
        assert caught.value.violations[0].field == "items"

    async def test_without_a_key_no_work_is_done(self) -> None:
        def random(count: int) -> bytes:
            raise AssertionError("no work should be done")

        service = servicer(signer=batch_signer(FakeKeys(None)), random=random)
        with pytest.raises(UnavailableError):
            await ask(service, request([create(0)]))

    async def test_an_answer_that_is_no_message_any_more_is_refused_before_signing(self) -> None:
        kms = FakeKMS()
        service = servicer(kms, max_answer_bytes=5000)
        with pytest.raises(InvalidArgumentError) as caught:
            await ask(service, request([create(index) for index in range(10)]))
        assert caught.value.reason == "BATCH_TOO_LARGE"
        assert kms.calls == 0
        await ask(service, request([create(0)]))

    async def test_work_is_bounded_over_all_calls(self) -> None:
        kms = FakeKMS()
        service = servicer(kms, max_in_work=5)
        kms.gate.clear()
        first = asyncio.ensure_future(ask(service, request([create(0), create(1), create(2)])))
        await kms.started.wait()
        with pytest.raises(ResourceExhaustedError) as caught:
            await ask(service, request([create(3), create(4), create(5)]))
        assert caught.value.retry_delay_s
        second = asyncio.ensure_future(ask(service, request([create(3), create(4)])))
        await turns()
        kms.gate.set()
        await asyncio.gather(first, second)
        await ask(service, request([create(index) for index in range(9)]))


class TestTurns:
    async def test_other_tasks_run_while_a_large_call_is_worked_on(self) -> None:
        seen = []

        async def other() -> None:
            for turn in itertools.count():
                seen.append(turn)
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        await asyncio.sleep(0)
        before = len(seen)
        await ask(servicer(), request([create(index) for index in range(1000)]))
        task.cancel()
        # A thousand drafts take well over ten milliseconds, and a turn is given every one.
        assert len(seen) - before >= 10

    async def test_a_large_draft_is_worked_on_in_a_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads = []
        make_one = witness_module._make_one

        def noting(*args: Any) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return make_one(*args)

        monkeypatch.setattr(witness_module, "_make_one", noting)
        large = orjson.dumps({"a": "x" * 20_000})
        items = [create(0), create(1, large), create(2, large[:-1]), create(3)]
        response = await ask(servicer(), request(items))
        assert threads == [True, False, False, True]
        assert sorted(rejections(response)) == [2]
        assert [
            result.witnessed.batch_index
            for result in response.results
            if result.HasField("witnessed")
        ] == [0, 1, 2]

    async def test_concurrent_calls_share_a_signature_and_all_of_them_verify(self) -> None:
        kms = FakeKMS()
        service = servicer(kms)
        kms.gate.clear()
        calls = [asyncio.ensure_future(ask(service, request([create(0)])))]
        await kms.started.wait()
        calls += [
            asyncio.ensure_future(ask(service, request([create(10 * n), create(10 * n + 1)])))
            for n in (1, 2)
        ]
        await turns()
        kms.gate.set()
        first, second, third = await asyncio.gather(*calls)
        assert kms.calls == 2
        assert second.sig == third.sig != first.sig
        places = [[r.witnessed.batch_index for r in each.results] for each in (second, third)]
        # Which of them is ready first depends on what else the loop had to do.
        assert sorted(places) == [[0, 1], [2, 3]]
        leaves = leaves_of(third)
        for result in (*second.results, *third.results):
            made = result.witnessed
            leaf = witness_batch.statement_leaf_hash("blake3", made.statement)
            assert leaves[made.batch_index] == leaf
