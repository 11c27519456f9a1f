"""Commands against a ledger service that answers with something else than it was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient
from provledger.errors import InternalError, NotFoundError, PermissionDeniedError
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.load import run
from provledger_cli.main import application
from provledger_cli.verbs.append import _append, _Attempt
from provledger_cli.verbs.get import _get
from tests.integration.client_simulator import LEDGER, FakeLedger, InThread, serving

MUTATION = {
    "action": "CREATE",
    "resource_type": "Item",
    "resource_id": "7",
    "actor_id": "tester",
    "new_state": {"b": 1, "a": 2},
}


class Dishonest(FakeLedger):
    """Changes each receipt on its way out."""

    def __init__(self) -> None:
        super().__init__()
        self.change: Callable[[Any], None] = lambda receipt: None

    async def Append(self, request: Any, context: Any) -> ledger_pb2.AppendResponse:
        answer = await super().Append(request, context)
        self.change(answer.receipt)
        return answer

    async def GetReceipt(self, request: Any, context: Any) -> ledger_pb2.GetReceiptResponse:
        answer = await super().GetReceipt(request, context)
        self.change(answer.receipt)
        return answer


def _elsewhere(receipt: Any) -> None:
    receipt.name = receipt.name.replace("acme", "evil")


def _about_another(receipt: Any) -> None:
    receipt.statement = receipt.statement.replace(b"Item/7", b"Item/8").replace(b'"7"', b'"8"')


def _to_another_state(receipt: Any) -> None:
    receipt.payload = receipt.payload.replace(b'"a":2', b'"a":3')


def _without_proofs(receipt: Any) -> None:
    del receipt.proofs[:]


async def append_to(endpoint: str, tmp_path: Path, *, wait: bool = False) -> str:
    where = Target(DataDir.at(tmp_path), {"ledger": endpoint}, False)
    data = json.dumps(MUTATION).encode()
    receipt, _, _ = await _append(where, "acme", "main", data, "", wait, 30.0, _Attempt())
    return receipt.name


@pytest.mark.parametrize(
    ("change", "named"),
    [(_elsewhere, "ledger"), (_about_another, "resource id"), (_to_another_state, "payload")],
)
async def test_append_takes_no_receipt_of_another_mutation(
    tmp_path: Path, change: Callable[[Any], None], named: str
) -> None:
    fake = Dishonest()
    async with serving(fake) as endpoint:
        await append_to(endpoint, tmp_path)
        fake.change = change
        with pytest.raises(InternalError, match=f"another {named}") as caught:
            await append_to(endpoint, tmp_path)
    assert caught.value.reason == "BAD_RESPONSE"


async def test_append_and_get_wait_for_a_proof(tmp_path: Path) -> None:
    fake = Dishonest()
    async with serving(fake) as endpoint:
        name = await append_to(endpoint, tmp_path, wait=True)
        fake.change = _without_proofs
        with pytest.raises(InternalError, match="no proof"):
            await append_to(endpoint, tmp_path, wait=True)
        where = Target(DataDir.at(tmp_path), {"ledger": endpoint}, False)
        with pytest.raises(InternalError, match="no proof"):
            await _get(where, name, True, None, 30.0)


@pytest.mark.parametrize("wait", [False, True])
async def test_get_takes_no_other_receipt(tmp_path: Path, wait: bool) -> None:
    fake = Dishonest()
    async with serving(fake) as endpoint:
        where = Target(DataDir.at(tmp_path), {"ledger": endpoint}, False)
        name = await append_to(endpoint, tmp_path)
        receipt, _ = await _get(where, name, wait, None, 30.0)
        assert receipt.name == name
        fake.change = _elsewhere
        with pytest.raises(InternalError, match=f"asked for {name}"):
            await _get(where, name, wait, None, 30.0)


def test_import_ends_with_2_where_a_result_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FakeLedger.AppendBatch

    async def short(self: FakeLedger, request: Any, context: Any) -> Any:
        answer = await original(self, request, context)
        return ledger_pb2.AppendBatchResponse(results=answer.results[:-1])

    file = tmp_path / "lines.ndjson"
    lines = [json.dumps({**MUTATION, "resource_id": str(number)}) for number in range(5)]
    file.write_text("\n".join(lines))
    monkeypatch.setattr(FakeLedger, "AppendBatch", short)
    with InThread() as (fake, endpoint):
        asked = ["import", str(file), "--tenant", "acme", "--endpoint", endpoint, "--json"]
        result = CliRunner().invoke(application(), [*asked, "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "BAD_RESPONSE" in result.stderr
    answer = json.loads(result.stdout)
    assert (answer["ledger"], answer["complete"], answer["unanswered"]) == (LEDGER, False, [[1, 5]])
    assert len(fake.receipts) == 5


def appended(endpoint: str, *options: str, **changes: str) -> tuple[int, Any]:
    """Exit code and document of `append` on that service."""
    asked = ["append", "--tenant", "acme", "--endpoint", endpoint, "--json", *options]
    result = CliRunner().invoke(application(), asked, input=json.dumps({**MUTATION, **changes}))
    return result.exit_code, json.loads(result.stdout)


def test_an_append_whose_answer_is_lost_says_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = FakeLedger.Append

    async def first_lost(self: FakeLedger, request: Any, context: Any) -> Any:
        answer = await original(self, request, context)
        if not answer.repeated_request:
            raise InternalError("LOST", "after it was recorded")
        return answer

    monkeypatch.setattr(FakeLedger, "Append", first_lost)
    with InThread() as (fake, endpoint):
        code, answer = appended(endpoint)
        (request_id,) = fake.by_request
        assert (code, answer["error"]["request_id"]) == (2, request_id)
        assert "receipt" not in answer["error"]
        option = f"--request-id {request_id}"
        assert option in answer["error"]["next"]
        code, answer = appended(endpoint, *option.split())
        assert (code, fake.receipts[0].name in json.dumps(answer)) == (0, True)
    assert len(fake.receipts) == 1


@pytest.mark.parametrize("why", [InternalError("AWAY", "the sink is away"), KeyboardInterrupt()])
def test_an_append_that_waits_in_vain_names_the_receipt_it_has(
    monkeypatch: pytest.MonkeyPatch, why: BaseException
) -> None:
    async def wait(*_: Any, **__: Any) -> Any:
        raise why

    monkeypatch.setattr(AsyncClient, "wait_for_anchor", wait)
    with InThread() as (fake, endpoint):
        code, answer = appended(endpoint, "--wait-anchored")
    name = fake.receipts[0].name
    assert (code, answer["error"]["receipt"]) == (2, name)
    assert list(fake.by_request) == [answer["error"]["request_id"]]
    assert answer["error"]["next"] == (
        f"it is recorded as {name}, not anchored yet: provledger get {name} --wait-anchored"
    )


def test_an_append_that_is_interrupted_is_not_said_to_be_safe_to_repeat_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Remote, "append", interrupted)
    with InThread() as (_, endpoint):
        code, answer = appended(endpoint)
    error = answer["error"]
    assert (code, error["message"]) == (2, "interrupted")
    assert error["next"].startswith("it may be recorded")
    assert f"--request-id {error['request_id']}" in error["next"]


def test_an_append_that_is_refused_is_not_said_to_be_recorded_perhaps() -> None:
    with InThread() as (fake, endpoint):
        code, answer = appended(endpoint, actor_id="bad")
    assert (code, fake.receipts) == (2, [])
    assert "--request-id" not in answer["error"]["next"]


def test_an_import_elsewhere_tells_of_the_key_that_it_makes(tmp_path: Path) -> None:
    file = tmp_path / "lines.ndjson"
    file.write_text(json.dumps(MUTATION))
    home = tmp_path / "home"
    talk = []
    with InThread() as (fake, endpoint):
        asked = ["import", str(file), "--tenant", "acme", "--endpoint", endpoint]
        for _ in range(2):
            result = CliRunner().invoke(application(), [*asked, "--data-dir", str(home), "--json"])
            assert result.exit_code == 0
            talk.append(result.stderr)
    assert f"made {home / 'import.key'}" in talk[0]
    assert "--data-dir" in talk[0]
    assert "import.key" not in talk[1]
    assert len(fake.receipts) == 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ledgers that were made, on services that begin without one."""
    ledgers: list[str] = []
    original = FakeLedger.GetLedger

    async def get(self: FakeLedger, request: Any, context: Any) -> Any:
        if request.name not in ledgers:
            raise NotFoundError("LEDGER_NOT_FOUND", f"there is no ledger {request.name}")
        return await original(self, request, context)

    async def create(self: FakeLedger, request: Any, context: Any) -> Any:
        if request.parent == "tenants/forbidden":
            raise PermissionDeniedError("PERMISSION_DENIED", "not for you")
        ledgers.append(f"{request.parent}/ledgers/{request.ledger_id}")
        named = ledger_pb2.GetLedgerRequest(name=ledgers[-1])
        ledger = (await original(self, named, context)).ledger
        return ledger_pb2.CreateLedgerResponse(ledger=ledger, created=True)

    monkeypatch.setattr(FakeLedger, "GetLedger", get)
    monkeypatch.setattr(FakeLedger, "CreateLedger", create)
    return ledgers


@pytest.mark.parametrize("verb", ["append", "import"])
def test_elsewhere_a_ledger_is_made_where_that_is_asked_for(
    tmp_path: Path, made: list[str], verb: str
) -> None:
    """A slip in its name begins none."""
    file = tmp_path / "lines.ndjson"
    file.write_text(json.dumps(MUTATION))
    with InThread() as (fake, endpoint):
        asked = [verb, *[str(file)] * (verb == "import"), "--tenant", "acme", "--json"]
        asked += ["--endpoint", endpoint, "--data-dir", str(tmp_path)]

        def ask(*more: str) -> Any:
            return CliRunner().invoke(application(), [*asked, *more], input=json.dumps(MUTATION))

        refused = ask()
        assert (refused.exception.reason, made) == ("LEDGER_NOT_FOUND", [])
        for _ in range(2):
            done = ask("--create-ledger")
            assert (done.exit_code, made) == (0, [LEDGER])
        assert len(fake.receipts) == (2 if verb == "append" else 1)


@pytest.mark.parametrize("tenant", ["load", "forbidden"])
def test_a_load_elsewhere_makes_its_ledgers_if_it_may(
    monkeypatch: pytest.MonkeyPatch, made: list[str], tenant: str
) -> None:
    class BegunError(Exception):
        pass

    async def begun(*_: Any) -> None:
        raise BegunError

    monkeypatch.setattr(run, "run", begun)
    with InThread() as (_, endpoint):
        asked = ["load", "--rates", "5", "--tenants", tenant, "--endpoint", endpoint]
        result = CliRunner().invoke(application(), asked)
    if tenant == "load":
        assert (type(result.exception), made) == (BegunError, ["tenants/load/ledgers/load"])
    else:
        assert (type(result.exception), made) == (PermissionDeniedError, [])
