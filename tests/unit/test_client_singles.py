"""Single appends that are under way at once share calls, and nothing else."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Sequence

import pytest

from provledger.api.common.v1 import common_pb2
from provledger.client import singles
from provledger.client.singles import FEW, MAX_CALLS, Aim, SingleAppends
from provledger.client.values import AppendResult
from provledger.errors import (
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)

AIM = Aim("tenants/acme/ledgers/main")
LONG = Aim(AIM.ledger, common_pb2.ANCHOR_STATE_LOGGED)


class Service:
    """Answers calls when it is let to; refuses the request ids in `bad`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[asyncio.Event] = []
        self.bad: set[str] = set()
        self.fails: StatusError | None = None

    async def one(self, aim: Aim, draft: common_pb2.Draft, timeout_s: float) -> AppendResult:
        await self._call([draft])
        return AppendResult(0, draft.request_id)

    async def many(
        self, aim: Aim, drafts: Sequence[common_pb2.Draft], timeout_s: float
    ) -> AsyncIterator[AppendResult]:
        await self._call(drafts)
        for index, draft in enumerate(drafts):
            error = None
            if draft.request_id in self.bad:
                field = f"drafts[{index}].mutation.new_state"
                error = InvalidArgumentError(
                    "INVALID_JSON",
                    f"{field}: no",
                    metadata={"pointer": "/a"},
                    violations=[FieldViolation(field, "no", "INVALID_JSON")],
                )
            yield AppendResult(index, draft.request_id, error=error)

    async def _call(self, drafts: Sequence[common_pb2.Draft]) -> None:
        gate = asyncio.Event()
        self.calls.append([draft.request_id for draft in drafts])
        self.gates.append(gate)
        await gate.wait()
        if self.fails is not None:
            raise self.fails

    async def answer(self, call: int) -> None:
        self.gates[call].set()
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def draft(request_id: str, size: int = 0) -> common_pb2.Draft:
    return common_pb2.Draft(
        request_id=request_id, mutation=common_pb2.Mutation(new_state=bytes(size))
    )


def start(
    desk: SingleAppends, *ids: str, timeout_s: float = 60.0, aim: Aim = AIM
) -> list[asyncio.Task[AppendResult]]:
    return [asyncio.create_task(desk.append(aim, draft(one), timeout_s)) for one in ids]


async def busy(desk: SingleAppends, aim: Aim = AIM) -> list[asyncio.Task[AppendResult]]:
    """As many calls under way as there may be, each of one append: `r0` and so on."""
    tasks = []
    for number in range(MAX_CALLS):
        tasks += start(desk, f"r{number}", aim=aim)
        await turns()
    return tasks


async def test_a_few_go_at_once_and_the_rest_together() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    tasks = await busy(desk)
    late = [f"x{n}" for n in range(3)]
    tasks += start(desk, *late)
    await turns()
    first = [[f"r{n}"] for n in range(MAX_CALLS)]
    assert service.calls == first
    await service.answer(MAX_CALLS - 1)
    assert service.calls == [*first, late]
    for call in range(len(service.calls)):
        await service.answer(call)
    assert [(await task).request_id for task in tasks] == [*(one for (one,) in first), *late]
    # Nothing is kept of a ledger that nobody appends to.
    assert not desk._lanes
    assert not desk._tasks


async def test_who_comes_in_one_turn_goes_together() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    tasks = start(desk, "a", "b", "c")
    await turns()
    assert service.calls == [["a", "b", "c"]]
    await service.answer(0)
    assert [(await task).request_id for task in tasks] == ["a", "b", "c"]


async def test_a_crowd_divides_itself_evenly_and_comes_back_so() -> None:
    """One lump would leave the service idle while it is prepared, and the client meanwhile."""
    service = Service()
    desk = SingleAppends(service.one, service.many)
    callers = 4 * FEW

    async def caller(name: int) -> None:
        for number in range(10):
            await desk.append(AIM, draft(f"{name}-{number}"), 60.0)

    tasks = [asyncio.create_task(caller(name)) for name in range(callers)]
    await turns()
    for call in range(10 * MAX_CALLS):
        await service.answer(call)
    assert [len(call) for call in service.calls] == [callers // MAX_CALLS] * (10 * MAX_CALLS)
    await asyncio.gather(*tasks)


async def test_a_crowd_out_of_balance_finds_it_again() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    crowd = [f"x{n}" for n in range(4 * FEW)]
    tasks = start(desk, *crowd)
    await turns()
    await service.answer(0)
    half = (len(crowd) + 1 + 1) // 2
    assert service.calls[MAX_CALLS:] == [crowd[:half]]
    await service.answer(1)
    assert service.calls[MAX_CALLS:] == [crowd[:half], crowd[half:]]
    for call in range(MAX_CALLS, MAX_CALLS + 2):
        await service.answer(call)
    await asyncio.gather(*first, *tasks)


async def test_who_goes_alone_goes_in_the_task_of_its_caller() -> None:
    """So it is part of the trace that he is in, and is given up when he is."""
    service = Service()
    desk = SingleAppends(service.one, service.many)
    where = contextvars.ContextVar("where", default="nowhere")
    seen: list[str] = []

    async def one(aim: Aim, message: common_pb2.Draft, timeout_s: float) -> AppendResult:
        seen.append(where.get())
        return await service.one(aim, message, timeout_s)

    desk = SingleAppends(one, service.many)

    async def caller() -> None:
        where.set("here")
        await desk.append(AIM, draft("a"), 60.0)

    task = asyncio.create_task(caller())
    await turns()
    assert seen == ["here"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    # Its place is free again.
    assert not desk._lanes


async def test_one_who_leaves_as_he_is_sent_takes_his_place_with_him() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    (leaving,) = start(desk, "a")
    # Its turn to be sent comes in the second; it would hear of it in the third.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    await turns()
    assert leaving.cancelled()
    assert service.calls == []
    assert not desk._lanes


async def test_each_has_an_outcome_of_its_own() -> None:
    service = Service()
    service.bad = {"x1"}
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    shared = start(desk, "x0", "x1", "x2")
    await turns()
    for call in range(MAX_CALLS + 1):
        await service.answer(call)
    assert [(await task).error for task in first] == [None] * MAX_CALLS
    good, bad, other = [await task for task in shared]
    assert (good.error, other.error) == (None, None)
    # As if it had gone in a call of its own.
    assert bad.error is not None
    assert bad.error.message == "draft.mutation.new_state: no"
    assert bad.error.violations[0].field == "draft.mutation.new_state"
    assert (bad.error.reason, bad.error.metadata) == ("INVALID_JSON", {"pointer": "/a"})


async def test_a_shared_call_that_fails_fails_those_in_it_only() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    shared = start(desk, "x0", "x1")
    await turns()
    await service.answer(0)
    later = start(desk, "y0", "y1")
    await turns()
    service.fails = UnavailableError("AWAY", "away")
    await service.answer(MAX_CALLS)
    for task in shared:
        with pytest.raises(UnavailableError):
            await task
    service.fails = None
    for call in range(len(service.calls)):
        await service.answer(call)
    for task in [*first, *later]:
        assert (await task).error is None


async def test_a_caller_who_leaves_is_not_sent_and_harms_nobody() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    leaving, staying = start(desk, "x0", "x1")
    await turns()
    leaving.cancel()
    await turns()
    for call in range(MAX_CALLS):
        await service.answer(call)
    await service.answer(MAX_CALLS)
    assert service.calls[MAX_CALLS:] == [["x1"]]
    assert (await staying).request_id == "x1"
    await asyncio.gather(*first)


async def test_the_time_of_each_is_its_own() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    (hasty,) = start(desk, "x0", timeout_s=0.01)
    (patient,) = start(desk, "x1")
    with pytest.raises(DeadlineExceededError):
        await hasty
    for call in range(MAX_CALLS + 1):
        await service.answer(min(call, len(service.gates) - 1))
    assert (await patient).error is None
    await asyncio.gather(*first)


async def test_shared_calls_and_the_queue_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singles, "MAX_SHARED_BYTES", 1000)
    monkeypatch.setattr(singles, "MAX_WAITING", 5)
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    sizes = {"a": 400, "b": 400, "c": 400, "d": 5000, "e": 1}
    waiting = [
        asyncio.create_task(desk.append(AIM, draft(name, size), 60.0))
        for name, size in sizes.items()
    ]
    await turns()
    with pytest.raises(ResourceExhaustedError):
        await desk.append(AIM, draft("f"), 60.0)
    call = 0
    while not all(task.done() for task in [*first, *waiting]):
        await service.answer(call)
        call += 1
    assert service.calls[MAX_CALLS:] == [["a", "b"], ["c"], ["d"], ["e"]]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("max_wait_s", "timeout_s"), [(0.25, 60.0), (0.0, 0.25), (9.0, 0.25)])
async def test_who_would_wait_for_too_long_hears_so_at_once(
    max_wait_s: float, timeout_s: float
) -> None:
    service, clock = Service(), Clock()
    desk = SingleAppends(service.one, service.many, max_wait_s=max_wait_s, clock=clock)
    first = await busy(desk)
    waiting = start(desk, "a", "b")
    await turns()
    clock.now_s += 0.25
    waiting += start(desk, "c")
    await turns()
    clock.now_s += 1.0
    with pytest.raises(ResourceExhaustedError) as caught:
        await desk.append(AIM, draft("d"), timeout_s)
    assert (caught.value.reason, caught.value.retry_delay_s) == ("QUEUE_FULL", 1.0)
    # Whoever was let in is sent, and then there is room again.
    for call in range(MAX_CALLS + 1):
        await service.answer(min(call, len(service.gates) - 1))
    assert service.calls[MAX_CALLS:] == [["a", "b", "c"]]
    (late,) = start(desk, "e", timeout_s=timeout_s)
    await turns()
    await service.answer(MAX_CALLS + 1)
    assert [(await task).error for task in [*first, *waiting, late]] == [None] * (MAX_CALLS + 4)


async def test_an_answer_that_takes_too_long_keeps_others_out_where_that_is_wanted() -> None:
    for max_wait_s, aim, refused in ((0.25, AIM, True), (0.25, LONG, False), (0.0, AIM, False)):
        service, clock = Service(), Clock()
        desk = SingleAppends(service.one, service.many, max_wait_s=max_wait_s, clock=clock)
        first = start(desk, "r0", aim=aim)
        await turns()
        clock.now_s += 0.5
        (other,) = start(desk, "r1", aim=aim)
        await turns()
        assert len(service.calls) == (1 if refused else 2)
        assert other.done() == refused
        for call in range(len(service.calls)):
            await service.answer(call)
        results = await asyncio.gather(*first, other, return_exceptions=True)
        assert isinstance(results[1], ResourceExhaustedError) == refused
        assert not desk._lanes


async def test_one_who_left_keeps_nobody_out() -> None:
    service, clock = Service(), Clock()
    desk = SingleAppends(service.one, service.many, clock=clock)
    first = await busy(desk)
    leaving = start(desk, "a", "b")
    await turns()
    clock.now_s += 1.0
    for task in leaving:
        task.cancel()
    await turns()
    (staying,) = start(desk, "c", timeout_s=0.5)
    await turns()
    for call in range(MAX_CALLS + 1):
        await service.answer(min(call, len(service.gates) - 1))
    assert (await staying).error is None
    await asyncio.gather(*first)


async def test_close_ends_what_is_under_way() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    shared = start(desk, "x0", "x1")
    await turns()
    await service.answer(0)
    await desk.close()
    for task in shared:
        with pytest.raises(asyncio.CancelledError):
            await task
    for call in range(MAX_CALLS):
        await service.answer(call)
    await asyncio.gather(*first)


@pytest.mark.parametrize("steps", range(1, 8))
async def test_close_ends_all_whenever_it_comes(steps: int) -> None:
    """Also between the making of a call and its beginning."""
    service = Service()
    desk = SingleAppends(service.one, service.many)
    tasks = start(desk, *[f"x{n}" for n in range(4 * FEW)])
    for _ in range(steps):
        await asyncio.sleep(0)
    await desk.close()
    await turns()
    assert all(task.cancelled() for task in tasks)
    assert not desk._lanes
    assert not desk._tasks


async def test_a_shared_call_that_nobody_waits_for_any_more_is_given_up() -> None:
    """Else its place would be taken, for as long as it hangs."""
    service = Service()
    desk = SingleAppends(service.one, service.many)
    tasks = start(desk, "a", "b")
    await turns()
    tasks += start(desk, "c", "d")
    await turns()
    late = start(desk, "e")
    await turns()
    assert service.calls == [["a", "b"], ["c", "d"]]
    tasks[0].cancel()
    await turns()
    assert len(service.calls) == 2
    tasks[1].cancel()
    await turns()
    assert service.calls[2:] == [["e"]]
    # One of whom the other is answered stays, and is no hindrance.
    await service.answer(2)
    tasks[2].cancel()
    await service.answer(1)
    done = await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert [isinstance(each, AppendResult) for each in done] == [False, False, False, True, True]
    assert not desk._lanes
    assert not desk._tasks


async def test_who_has_no_time_left_is_told_that() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    (late,) = start(desk, "a", timeout_s=-0.5)
    with pytest.raises(DeadlineExceededError):
        await late
    assert not desk._lanes


async def test_a_shared_call_is_part_of_what_its_first_caller_traces() -> None:
    where = contextvars.ContextVar("where", default="nowhere")
    seen: list[str] = []
    service = Service()

    async def many(
        aim: Aim, drafts: Sequence[common_pb2.Draft], timeout_s: float
    ) -> AsyncIterator[AppendResult]:
        seen.append(where.get())
        async for result in service.many(aim, drafts, timeout_s):
            yield result

    desk = SingleAppends(service.one, many)

    async def caller(name: str) -> None:
        where.set(name)
        await desk.append(AIM, draft(name), 60.0)

    tasks = [asyncio.create_task(caller(name)) for name in ("a", "b")]
    await turns()
    tasks += [asyncio.create_task(caller(name)) for name in ("c", "d")]
    await turns()
    tasks += [asyncio.create_task(caller(name)) for name in ("e", "f")]
    await turns()
    await service.answer(0)
    assert seen == ["a", "c", "e"]
    for call in range(1, len(service.calls)):
        await service.answer(call)
    await asyncio.gather(*tasks)


async def test_close_sends_nothing_of_what_waits() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk)
    shared = start(desk, "x0", "x1")
    await turns()
    await service.answer(0)
    # One shared call is under way, and as many others as there may be; these wait.
    more = start(desk, "y0")
    await turns()
    waiting = start(desk, "z0", "z1")
    await turns()
    sent = len(service.calls)
    await desk.close()
    await turns()
    assert len(service.calls) == sent
    for task in [*shared, *more, *waiting]:
        with pytest.raises(asyncio.CancelledError):
            await task
    for call in range(1, MAX_CALLS):
        await service.answer(call)
    await asyncio.gather(*first)


async def test_those_who_wait_for_the_log_share_with_their_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(singles, "MAX_LINGER_S", 3600.0)
    service = Service()
    desk = SingleAppends(service.one, service.many)
    ids = [f"r{n}" for n in range(MAX_CALLS + 2)]
    long = await busy(desk, LONG)
    long += start(desk, *ids[MAX_CALLS:], aim=LONG)
    short = start(desk, "s0")
    await turns()
    assert service.calls == [*[[one] for one in ids[:MAX_CALLS]], ["s0"]]
    await service.answer(0)
    assert service.calls[MAX_CALLS + 1 :] == [ids[MAX_CALLS:]]
    for call in range(len(service.calls)):
        await service.answer(call)
    assert [(await task).request_id for task in [*long, *short]] == [*ids, "s0"]
    assert not desk._lanes


async def test_nobody_waits_long_for_calls_that_wait_for_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the log is away they take seconds, and what is not sent is not recorded."""
    monkeypatch.setattr(singles, "MAX_LINGER_S", 0.0)
    service = Service()
    desk = SingleAppends(service.one, service.many)
    first = await busy(desk, LONG)
    late = start(desk, "x0", "x1", aim=LONG)
    async with asyncio.timeout(10):
        while len(service.calls) <= MAX_CALLS:
            await turns()
    assert service.calls[MAX_CALLS:] == [["x0", "x1"]]
    for call in range(len(service.calls)):
        await service.answer(call)
    assert [(await task).error for task in [*first, *late]] == [None] * (MAX_CALLS + 2)


async def test_who_has_little_time_to_wait_for_the_log_asks_alone() -> None:
    service = Service()
    desk = SingleAppends(service.one, service.many)
    ids = [f"r{n}" for n in range(MAX_CALLS + 2)]
    tasks = start(desk, *ids, timeout_s=1.0, aim=LONG)
    await turns()
    assert service.calls == [[one] for one in ids]
    for call in range(len(ids)):
        await service.answer(call)
    await asyncio.gather(*tasks)


class Strict(Service):
    """Allows Append alone: it answers that at once, and shared calls with `denial`."""

    def __init__(self, denial: StatusError) -> None:
        super().__init__()
        self.denial = denial

    async def one(self, aim: Aim, draft: common_pb2.Draft, timeout_s: float) -> AppendResult:
        await turns()
        if draft.request_id in self.bad:
            raise InvalidArgumentError("INVALID_JSON", "draft.mutation.new_state: no")
        return AppendResult(0, draft.request_id)

    async def many(
        self, aim: Aim, drafts: Sequence[common_pb2.Draft], timeout_s: float
    ) -> AsyncIterator[AppendResult]:
        self.calls.append([draft.request_id for draft in drafts])
        # One was answered by a call before.
        yield AppendResult(0, drafts[0].request_id)
        raise self.denial


@pytest.mark.parametrize("reason", ["CALLER_NOT_ALLOWED", "PERMISSION_DENIED"])
async def test_who_may_not_call_appendbatch_shares_no_calls(reason: str) -> None:
    service = Strict(PermissionDeniedError(reason, "may not call AppendBatch"))
    service.bad = {"r5"}
    desk = SingleAppends(service.one, service.many)
    ids = [f"r{n}" for n in range(10)]
    tasks = start(desk, *ids)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    refused = done.pop(5)
    ids.pop(5)
    assert isinstance(refused, InvalidArgumentError)
    assert [each.request_id for each in done if isinstance(each, AppendResult)] == ids
    assert len(service.calls) == 1
    # It is not tried again.
    assert len(await asyncio.gather(*start(desk, *ids))) == len(ids)
    assert len(service.calls) == 1
    assert not desk._lanes


async def test_who_is_denied_the_ledger_is_told_so() -> None:
    service = Strict(PermissionDeniedError("SYSTEM_TENANT", "not yours"))
    desk = SingleAppends(service.one, service.many)
    done = await asyncio.gather(
        *start(desk, *[f"r{n}" for n in range(MAX_CALLS + 3)]), return_exceptions=True
    )
    assert [type(each) for each in done[-2:]] == [PermissionDeniedError] * 2


async def test_appends_that_were_given_up_neither_count_nor_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They stand behind one that still waits."""
    monkeypatch.setattr(singles, "MAX_WAITING", 3)
    service = Service()
    desk = SingleAppends(service.one, service.many, clock=lambda: 0.0)
    tasks = [*await busy(desk), *start(desk, "patient")]
    await turns()
    for number in range(10):
        gone = start(desk, f"gone{number}")
        await turns()
        gone[0].cancel()
        await turns()
    late = start(desk, "late", timeout_s=0.0)
    with pytest.raises(DeadlineExceededError):
        await late[0]
    assert [item.draft.request_id for item in desk._lanes[AIM].waiting] == ["patient"]
    tasks += start(desk, "next", "last")
    await turns()
    # Those that really wait do count.
    with pytest.raises(ResourceExhaustedError):
        await start(desk, "beyond")[0]
    for call in range(MAX_CALLS + 1):
        await service.answer(call)
    assert [(await task).error for task in tasks] == [None] * (MAX_CALLS + 3)
    assert service.calls[MAX_CALLS:] == [["patient", "next", "last"]]
    assert not desk._lanes
