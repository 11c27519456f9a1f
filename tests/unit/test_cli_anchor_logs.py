"""What `anchor status`, `sinks`, `retry` and `policy` make of logs that are a tenant's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import FailedPreconditionError, NotFoundError, StatusError, UnavailableError
from provledger_cli import connect
from provledger_cli.anchor_main import application
from provledger_cli.anchors import SHOWN_LOGS
from provledger_cli.failures import CommandError

ACME = "tenants/acme"
SHARED = "logs/00"
WELL = pb.Sink(uri="file:///held", tree_size=2)
AWAY = pb.Sink(uri="file:///held", last_error="disk full", failures=9, circuit_open=True)


def log(name: str, tenant: str = "", **more: Any) -> pb.Log:
    uid = bytes.fromhex(name.removeprefix("logs/"))
    return pb.Log(
        name=name, uid=uid, origin=f"o/{name}", tenant=tenant, state=pb.LOG_STATE_SERVING, **more
    )


OVERDUE = pb.AnchorPolicy(fail_closed=True, within_s=1, overdue=True)
OWN = log("logs/0a", ACME)


@dataclass
class FakeAnchor:
    """The anchor service, in place of a `Remote`; lists two logs a page."""

    logs: list[pb.Log] = field(default_factory=lambda: [log(SHARED), OWN])
    sinks: dict[str, pb.Sink] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    fails: dict[str, StatusError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.anchor = SimpleNamespace(
            GetLog=self.get_log,
            ListLogs=self.list_logs,
            ListSinks=self.list_sinks,
            RetrySink=self.retry_sink,
            GetPolicy=self.get_policy,
            SetPolicy=self.set_policy,
        )

    async def __aenter__(self) -> FakeAnchor:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def call(self, method: Any, request: Any) -> Any:
        self.asked.append(request)
        return method(request)

    def _named(self, name: str) -> pb.Log:
        wanted = SHARED if name == "logs/-" else name
        return next(each for each in self.logs if each.name == wanted)

    def get_log(self, request: pb.GetLogRequest) -> pb.GetLogResponse:
        return pb.GetLogResponse(log=self._named(request.name))

    def list_logs(self, request: pb.ListLogsRequest) -> pb.ListLogsResponse:
        start = int(request.page_token or 0)
        more = str(start + 2) if start + 2 < len(self.logs) else ""
        return pb.ListLogsResponse(logs=self.logs[start : start + 2], next_page_token=more)

    def list_sinks(self, request: pb.ListSinksRequest) -> pb.ListSinksResponse:
        return pb.ListSinksResponse(sinks=[self.sinks.get(request.log, WELL)])

    def retry_sink(self, request: pb.RetrySinkRequest) -> pb.RetrySinkResponse:
        if request.log in self.fails:
            raise self.fails[request.log]
        sink = self.sinks.get(self._named(request.log).name, WELL)
        if request.sink not in ("", sink.uri):
            raise NotFoundError("SINK_NOT_FOUND", "this log has no such sink")
        return pb.RetrySinkResponse(sinks=[sink.uri] if sink.last_error else [])

    def get_policy(self, request: pb.GetPolicyRequest) -> pb.GetPolicyResponse:
        policy = pb.Policy(log=request.log, tenant=request.tenant, text="quorum none\n")
        return pb.GetPolicyResponse(policy=policy)

    def set_policy(self, request: pb.SetPolicyRequest) -> pb.SetPolicyResponse:
        policy = pb.Policy(log=request.log, tenant=request.tenant, version=1)
        return pb.SetPolicyResponse(policy=policy)


@pytest.fixture
def anchor(monkeypatch: pytest.MonkeyPatch) -> FakeAnchor:
    fake = FakeAnchor()
    monkeypatch.setattr(connect, "Remote", lambda where, *, timeout_s: fake)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application(), [*arguments, "--endpoint", "127.0.0.1:1"])


def document(*arguments: str) -> tuple[int, Any]:
    answer = run(*arguments, "--json")
    return answer.exit_code, json.loads(answer.stdout)


@pytest.mark.parametrize(
    "broken",
    [
        log("logs/0a", ACME, policy=OVERDUE),
        log("logs/0a", ACME, tenants=[pb.TenantPromise(tenant=ACME, policy=OVERDUE)]),
    ],
)
def test_a_broken_promise_of_any_log_is_seen(anchor: FakeAnchor, broken: pb.Log) -> None:
    assert document("status")[0] == 0
    anchor.logs += [log("logs/0b", "tenants/b"), log("logs/0c", "tenants/c")]
    anchor.logs[1] = broken
    code, found = document("status")
    assert (code, found["log"], found["well"]) == (1, SHARED, False)
    assert [(each["tenant"], each["well"]) for each in found["others"]] == [
        (ACME, False),
        ("tenants/b", True),
        ("tenants/c", True),
    ]
    assert found["others"][0]["promises"][0]["overdue"] is True
    shown = run("status")
    assert ACME in shown.stdout
    assert "overdue" in shown.stdout
    assert "tenants/b" not in shown.stdout
    assert "2 of 3 are well" in shown.stdout
    # Whoever asks for one log hears of that one.
    code, found = document("status", "--log", "0b")
    assert (code, found["log"], found["others"]) == (0, "logs/0b", [])


def test_a_sink_that_does_not_answer_for_one_log_is_seen(anchor: FakeAnchor) -> None:
    assert (document("sinks")[0], run("sinks").exit_code) == (0, 0)
    anchor.sinks[OWN.name] = AWAY
    assert document("status")[0] == 1
    code, found = document("sinks")
    assert (code, found["log"], found["sinks"][0]["last_error"]) == (1, SHARED, None)
    (other,) = found["others"]
    assert (other["log"], other["tenant"]) == (OWN.name, ACME)
    assert other["sinks"][0]["last_error"] == "disk full"
    shown = run("sinks")
    assert shown.exit_code == 1
    assert ACME in shown.stdout
    assert "disk full" in shown.stdout
    assert document("sinks", "--log", "00")[0] == 0


def test_sinks_of_all_logs_are_asked_again(anchor: FakeAnchor) -> None:
    """A sink may take the shared log and refuse that of a tenant, whose policy may have its own."""
    b = log("logs/0b", "tenants/b")
    damaged = pb.Log(name="logs/0c", uid=b"\x0c", state=pb.LOG_STATE_DAMAGED)
    anchor.logs += [b, damaged]
    away_too = pb.Sink(uri="file:///own", last_error="disk full")
    anchor.sinks = {OWN.name: AWAY, b.name: away_too}
    code, found = document("retry")
    assert (code, found["asked"]) == (0, [AWAY.uri, "file:///own"])
    assert found["logs"] == [
        {"log": OWN.name, "tenant": ACME, "asked": [AWAY.uri]},
        {"log": b.name, "tenant": "tenants/b", "asked": ["file:///own"]},
    ]
    assert "asked now: file:///own" in run("retry").stdout
    # One that is named need not be known to every log, but to some.
    assert document("retry", "file:///own")[1]["asked"] == ["file:///own"]
    assert isinstance(run("retry", "file:///none").exception, NotFoundError)
    # Whoever names a log has that one asked.
    assert document("retry", "--log", "0b")[1]["asked"] == ["file:///own"]
    nothing: dict[str, Any] = {"asked": [], "logs": [], "failed": [], "damaged": []}
    assert document("retry", "--log", "00") == (0, nothing)
    anchor.sinks[SHARED] = anchor.sinks[b.name] = AWAY
    assert f"asked now: {AWAY.uri}, by 3 logs" in run("retry").stdout.replace("\n", " ")


def test_a_log_that_fails_keeps_no_other_from_being_asked(anchor: FakeAnchor) -> None:
    anchor.logs += [log(f"logs/{number:02x}", f"tenants/t{number}") for number in range(16, 46)]
    anchor.logs.append(pb.Log(name="logs/ff", uid=b"\xff", state=pb.LOG_STATE_DAMAGED))
    anchor.sinks["logs/2d"] = AWAY
    error = FailedPreconditionError("LOG_NOT_FOUND", "there is [none]")
    anchor.fails = {SHARED: error}
    answer = run("retry")
    assert answer.exception is error
    assert f"asked now: {AWAY.uri}" in answer.stdout
    assert f"{SHARED}: LOG_NOT_FOUND: there is [none]" in answer.stderr
    assert "logs/ff was not asked: it is damaged" in answer.stderr
    code, found = document("retry")
    assert code == 1
    assert found["logs"] == [{"log": "logs/2d", "tenant": "tenants/t45", "asked": [AWAY.uri]}]
    failed = {"log": SHARED, "reason": "LOG_NOT_FOUND", "message": "there is [none]"}
    assert (found["failed"], found["damaged"]) == ([failed], ["logs/ff"])


def test_an_anchor_that_is_away_is_not_asked_about_each_of_very_many_logs(
    anchor: FakeAnchor,
) -> None:
    anchor.logs[1:] = [log(f"logs/{number:04x}") for number in range(1, 101)]
    error = UnavailableError("X", "it is away")
    anchor.fails = {each.name: error for each in anchor.logs}
    _, found = document("retry")
    assert len(found["failed"]) == 101
    asked = [each for each in anchor.asked if isinstance(each, pb.RetrySinkRequest)]
    assert len(asked) < 20


def test_damaged_logs_that_were_not_asked_are_named(anchor: FakeAnchor) -> None:
    damaged = pb.Log(name="logs/ff", uid=b"\xff", state=pb.LOG_STATE_DAMAGED)
    anchor.logs.append(damaged)
    refused = run("retry", "file:///none").exception
    assert isinstance(refused, NotFoundError)
    assert "logs/ff" in refused.message
    answer = run("retry")
    assert answer.exit_code == 0
    assert "logs/ff was not asked" in answer.stderr
    anchor.logs = [damaged]
    none = run("retry").exception
    assert isinstance(none, CommandError)
    assert "every log is damaged" in none.message


def test_what_people_are_shown_of_very_many_logs_is_bounded(anchor: FakeAnchor) -> None:
    many = [log(f"logs/{number:04x}", f"tenants/t{number}") for number in range(1, 41)]
    anchor.logs[1:] = many
    anchor.sinks = {each.name: AWAY for each in many}
    for verb in ("status", "sinks"):
        shown = run(verb)
        assert shown.exit_code == 1
        assert shown.stdout.count("tenants/t") == SHOWN_LOGS
        assert "30 more" in shown.stdout
        assert len(document(verb)[1]["others"]) == 40


@pytest.mark.parametrize(
    "more", [(), ("--set", "p.policy"), ("--set", "p.policy", "--dry-run"), ("--clear",)]
)
@pytest.mark.parametrize(
    "own",
    [
        OWN,
        # What a service of before says, and of damaged logs only.
        pb.Log(
            name=OWN.name,
            uid=OWN.uid,
            state=pb.LOG_STATE_DAMAGED,
            damage=pb.LogDamage(tenant=ACME),
        ),
    ],
)
def test_a_policy_for_a_tenant_with_its_own_log_names_the_log(
    anchor: FakeAnchor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    more: tuple[str, ...],
    own: pb.Log,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.policy").write_text("quorum none\n")
    anchor.logs = [log(SHARED), log("logs/0b", "tenants/b"), own]
    refused = run("policy", "--tenant", "acme", *more).exception
    assert isinstance(refused, CommandError)
    assert OWN.name in refused.message
    assert "--log 0a" in refused.hint
    assert "--log 00" in refused.hint
    assert not [each for each in anchor.asked if isinstance(each, pb.SetPolicyRequest)]
    for uid in ("0a", "00"):
        code, found = document("policy", "--tenant", "acme", *more, "--log", uid)
        assert (code, found["log"], found["tenant"]) == (0, f"logs/{uid}", ACME)
    # Others have only the shared one, and a log's own policy is of no tenant.
    assert document("policy", "--tenant", "other", *more)[1]["log"] == "logs/-"
    assert document("policy", *more)[1]["log"] == "logs/-"
