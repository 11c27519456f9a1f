"""Quotas of tenants, their own and those that hold while others are there, in pretended time."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.gate import Gate
from ledger_svc.quotas import Quota, Quotas, parse_quotas
from ledger_svc.turns import GATHER_S, Turns
from provledger.batching import GroupCommit
from provledger.errors import ResourceExhaustedError
from provledger.settings import ConfigError
from tests.support import virtual_time
from tests.support.overload import request_of


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def sent(quotas: Quotas, tenant: str, drafts: int = 1) -> bool:
    """Whether a call with so many drafts was let in."""
    if quotas.wait_s(tenant) > 0.0:
        return False
    quotas.charge(tenant, drafts, held=quotas.holds(tenant))
    return True


def let_in(quotas: Quotas, clock: Clock, seconds: float, **rates_per_s: int) -> dict[str, float]:
    """Drafts a second let in, of tenants who send calls of one draft at even distances."""
    begun_s, counts = clock.now_s, dict.fromkeys(rates_per_s, 0)
    arrivals = sorted(
        chain.from_iterable(
            zip((n / rate for n in range(int(rate * seconds))), repeat(tenant))
            for tenant, rate in rates_per_s.items()
        )
    )
    for after_s, tenant in arrivals:
        clock.now_s = begun_s + after_s
        counts[tenant] += sent(quotas, tenant)
    clock.now_s = begun_s + seconds
    return {tenant: count / seconds for tenant, count in counts.items()}


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), max_size=60), st.floats(1, 100))
def test_quota_is_never_exceeded_by_more_than_one_call(
    calls: list[tuple[float, int]], rate: float
) -> None:
    quota, now_s, admitted = Quota(rate, 0.0), 0.0, 0
    largest = max((drafts for _, drafts in calls), default=0)
    for pause_s, drafts in calls:
        now_s += pause_s
        if quota.wait_s(now_s) == 0.0:
            quota.charge(drafts, now_s)
            admitted += drafts
        assert admitted <= rate * (now_s + 1.0) + largest + 1e-6


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "inf", "nan"])
@pytest.mark.parametrize("name", ["tenant_quotas", "shared_quotas"])
def test_bad_quota_is_a_configuration_error(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name.upper()):
        parse_quotas(name, {"acme": (text,)})
    assert parse_quotas(name, {"acme": ("5",), "*": ("0.5",)}) == {"acme": 5.0, "*": 0.5}


# --- while others are there


def test_shared_quota_holds_while_others_are_there_who_send_less() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    assert let_in(quotas, clock, 10.0, flood=1000) == {"flood": 1000}
    beside = let_in(quotas, clock, 10.0, flood=1000, quiet=10)
    assert beside["quiet"] == 10
    # At once: what it had let in while it was alone is no debt, and left it nothing saved up.
    assert beside["flood"] == pytest.approx(100, rel=0.02)
    # Until the other was gone for five seconds.
    assert let_in(quotas, clock, 4.9, flood=1000)["flood"] == pytest.approx(100, rel=0.02)
    clock.now_s += 0.2
    assert let_in(quotas, clock, 10.0, flood=1000) == {"flood": 1000}


def test_who_sends_seldom_is_there_all_the_time() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 5.0, flood=1000)
    for _ in range(5):
        assert sent(quotas, "quiet")
        assert let_in(quotas, clock, 4.0, flood=1000)["flood"] == pytest.approx(100, rel=0.02)


def test_among_those_who_all_send_more_nobody_is_bounded() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 6.0, one=1000, two=300)  # until both are known to
    assert let_in(quotas, clock, 10.0, one=1000, two=300) == {"one": 1000, "two": 300}


def test_who_is_bounded_still_sends_more() -> None:
    """Two floods beside a quiet tenant: each keeps its quota, neither is taken for quiet."""
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 5.0, one=1000, two=1000)
    three = let_in(quotas, clock, 10.0, one=1000, two=1000, quiet=10)
    assert three == pytest.approx({"one": 100, "two": 100, "quiet": 10}, rel=0.02)
    assert let_in(quotas, clock, 5.1, one=1000, two=1000)["one"] < 200
    assert let_in(quotas, clock, 10.0, one=1000, two=1000) == {"one": 1000, "two": 1000}


def test_large_batches_now_and_then_are_much() -> None:
    """500 drafts every two seconds, of a quota of 100 a second."""
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    for _ in range(5):
        assert sent(quotas, "flood", 500)
        clock.now_s += 2.0
    assert sent(quotas, "quiet")
    assert sent(quotas, "flood", 500)
    # In debt now, since somebody is there.
    assert quotas.wait_s("flood") == pytest.approx(4.01)
    assert let_in(quotas, clock, 1.0, quiet=10) == {"quiet": 10}


def test_who_is_alone_is_no_neighbour_of_its_own() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    assert sent(quotas, "alone")
    assert sent(quotas, "alone", 500)
    assert sent(quotas, "quiet")
    assert quotas.wait_s("alone") == pytest.approx(0.01)  # no debt


def test_who_is_refused_is_kept_to_the_quota_all_the_time() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    assert sent(quotas, "quiet")
    assert sent(quotas, "flood", 2000)
    for _ in range(18):
        clock.now_s += 1.0
        assert sent(quotas, "quiet")
        assert not sent(quotas, "flood")
        assert quotas.bounds("flood")
        assert not quotas.bounds("quiet")


def test_a_batch_now_and_then_is_not_much() -> None:
    """Of 200 each five seconds, of a quota of 150 a second; and each draft of a quota below one."""
    clock = Clock()
    quotas = Quotas({}, {"*": 150.0, "seldom": 0.5}, clock)
    let_in(quotas, clock, 6.0, flood=1000)
    for _ in range(3):
        assert sent(quotas, "quiet", 200)
        assert let_in(quotas, clock, 4.9, flood=1000)["flood"] == pytest.approx(150, rel=0.02)
    clock.now_s += 5.1
    let_in(quotas, clock, 6.0, flood=1000)
    assert sent(quotas, "seldom")
    assert let_in(quotas, clock, 4.0, flood=1000)["flood"] == pytest.approx(150, rel=0.02)


def test_what_was_let_in_before_anybody_came_is_no_debt() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 6.0, flood=1000)
    held = quotas.holds("flood")
    assert sent(quotas, "quiet")
    for _ in range(50):
        quotas.charge("flood", 256, held=held)
    assert quotas.wait_s("flood") <= 0.011
    quotas.charge("flood", 256, held=quotas.holds("flood"))
    assert quotas.wait_s("flood") > 2.5


def test_bounds_says_who_has_to_wait_now() -> None:
    """Callers of who only had to would wait for each other, and come to less than the quota."""
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 6.0, flood=1000)
    assert sent(quotas, "quiet")
    assert quotas.bounds("flood")
    clock.now_s += 0.5
    assert not quotas.bounds("flood")


def test_tenant_without_a_shared_quota_is_there_too() -> None:
    clock = Clock()
    quotas = Quotas({}, {"flood": 100.0}, clock)
    found = let_in(quotas, clock, 10.0, flood=1000, other=500)
    assert found["other"] == 500
    assert found["flood"] == pytest.approx(110, rel=0.02)  # with a second's worth at first


def test_key_events_bound_nobody() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    assert let_in(quotas, clock, 10.0, flood=1000, system=1)["flood"] == 1000


def test_who_makes_ledgers_bounds_nobody() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    let_in(quotas, clock, 5.0, flood=1000)
    quotas.charge("other", 1, appends=False)
    assert let_in(quotas, clock, 1.0, flood=1000) == {"flood": 1000}


def test_own_quota_holds_as_well() -> None:
    clock = Clock()
    quotas = Quotas({"flood": 50.0}, {"*": 100.0}, clock)
    assert let_in(quotas, clock, 10.0, flood=1000)["flood"] == pytest.approx(55, rel=0.02)
    assert quotas.at_once("flood") == 50.0


def test_stream_goes_in_portions_while_the_shared_quota_holds() -> None:
    clock = Clock()
    quotas = Quotas({}, {"*": 100.0}, clock)
    assert quotas.at_once("flood") is None
    quotas.charge("quiet", 1)
    assert quotas.at_once("flood") == 100.0
    clock.now_s += 5.1
    assert quotas.at_once("flood") is None


@pytest.mark.parametrize("whose", ["*", "flood"])
def test_only_who_was_there_of_late_is_remembered(whose: str) -> None:
    clock = Clock()
    quotas = Quotas({}, {whose: 100.0}, clock)
    for number in range(5000):
        clock.now_s += 0.01
        quotas.charge(f"t{number}", 1)
    assert len(quotas.tenants) <= 1001


def gate(clock: Clock, **quotas: dict[str, float]) -> Gate:
    return Gate(
        max_bytes=1 << 20,
        target_s=0.03,
        small_calls=100,
        small_by_time=True,
        tenant_streams=2,
        clock=clock,
        **quotas,
    )


def called(subject: Gate, tenant: str, drafts: int) -> None:
    """A unary call, in a context of its own as each has one."""

    def call() -> None:
        with subject.call(request_of(tenant)):
            subject.admit(tenant, drafts)

    copy_context().run(call)


def test_gate_asks_the_shared_quota() -> None:
    clock = Clock()
    subject = gate(clock, shared_quotas={"*": 10.0})
    for _ in range(3):
        called(subject, "flood", 30)
    called(subject, "quiet", 1)
    with pytest.raises(ResourceExhaustedError) as caught:
        called(subject, "flood", 1)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.retry_delay_s == pytest.approx(0.1)
    clock.now_s += 5.1
    called(subject, "flood", 1)


def test_call_that_came_in_before_anybody_was_there_is_no_debt() -> None:
    subject = gate(Clock(), shared_quotas={"*": 10.0})
    with subject.call(request_of("flood")):
        called(subject, "quiet", 1)
        subject.admit("flood", 1000)
    with pytest.raises(ResourceExhaustedError) as caught:
        called(subject, "flood", 1)
    assert caught.value.retry_delay_s == pytest.approx(0.1)


def test_streams_of_a_tenant_share_its_quota_in_portions() -> None:
    subject = gate(Clock(), quotas={"acme": 10.0})
    with subject.stream("acme"):
        assert subject.portion("acme") == 10
        with subject.stream("acme"):
            assert subject.portion("acme") == 5


async def test_streams_wait_behind_each_other_for_the_quota() -> None:
    """And not together, to bring it into a debt that ends them all."""
    subject = gate(Clock(), quotas={"acme": 10.0})
    called(subject, "acme", 30)
    asleep = [asyncio.ensure_future(subject.enter("acme", 25, 1024)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError) as caught:
        await subject.enter("acme", 1, 1024)
    assert caught.value.retry_delay_s == pytest.approx(7.1)
    for each in asleep:
        each.cancel()
    await asyncio.gather(*asleep, return_exceptions=True)
    assert subject.in_work_units == 0


@pytest.mark.parametrize("callers", [1, 2, 4, 16, 32])
@pytest.mark.parametrize("rate_per_s", [150, 1000])
def test_callers_who_wait_for_their_answers_come_to_the_quota(
    callers: int, rate_per_s: int
) -> None:
    """Their drafts gather, but they do not wait for each other: as many as with a quota that always
    holds, under which nothing gathers."""
    with_own = answered(callers, {"flood": rate_per_s}, {})
    assert answered(callers, {}, {"*": rate_per_s}) >= 0.9 * with_own


def answered(callers: int, own: dict[str, float], shared: dict[str, float]) -> float:
    """Drafts a second of callers who come again once they hear something, beside a quiet tenant."""
    done = 0

    async def main() -> None:
        nonlocal done
        clock = asyncio.get_running_loop().time
        quotas = Quotas(own, shared, clock)
        turns = Turns(clock, bounded=quotas.bounds)

        async def flush(items: list[int]) -> list[int]:
            await asyncio.sleep(0.006)
            return items

        batchers = {
            tenant: GroupCommit[int, int](
                flush,
                turns=turns.of(tenant),
                max_in_flight=2,
                budget_s=GATHER_S,
                patience=turns.of(tenant).patience,
                linger_s=0.005,
                clock=clock,
            )
            for tenant in ("flood", "quiet")
        }

        async def caller() -> None:
            nonlocal done
            while clock() < end_s:
                if (wait_s := quotas.wait_s("flood")) > 0.0:
                    await asyncio.sleep(max(0.01, wait_s))
                    continue
                quotas.charge("flood", 1, held=quotas.holds("flood"))
                await batchers["flood"].submit(1)
                done += clock() > begin_s

        async def quiet() -> None:
            while clock() < end_s:
                quotas.charge("quiet", 1)
                await batchers["quiet"].submit(1)
                await asyncio.sleep(0.05)

        begin_s = clock() + 10.0
        end_s = begin_s + 10.0
        await asyncio.gather(quiet(), *(caller() for _ in range(callers)))

    virtual_time.run(main)
    return done / 10.0
