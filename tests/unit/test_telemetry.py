"""Tracing and metrics: nothing while off, the right spans while on."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from provledger import _instruments, telemetry
from provledger.batching import GroupCommit
from provledger.rpc.channel import call, channel
from provledger.settings import ConfigError
from tests.support.echo import SERVICE, EchoServicer, EchoStub, serving


class Recorded:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracer = TracerProvider(shutdown_on_exit=False)
        self.tracer.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter = MeterProvider([self.reader], shutdown_on_exit=False)

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self) -> dict[str, Any]:
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: metric.data.data_points[0]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def series(self, name: str) -> dict[Any, Any]:
        """Values by their sorted attributes."""
        data: Any = self.reader.get_metrics_data()
        return {
            tuple(sorted(point.attributes.items())): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    telemetry.use(recorded.tracer, recorded.meter)
    yield recorded
    telemetry.shutdown()


def test_off_is_one_shared_object_and_no_import() -> None:
    assert telemetry.span("a") is telemetry.span("b", {"k": 1})
    assert telemetry.current_ref() is None
    assert telemetry.outgoing_metadata() is None
    assert telemetry.rpc_tracer() is None
    assert not telemetry.configure("ledger", {})
    script = (
        "import sys, provledger.telemetry, provledger.rpc.server;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_instruments_work_whenever_they_were_declared(recorded: Recorded) -> None:
    late = telemetry.counter("late", doc="declared after telemetry was switched on")
    late.add(2)
    late.add(3)
    telemetry.histogram("wait", unit="s").record(0.5)
    telemetry.gauge("depth").set(7)
    points = recorded.points()
    assert points["late"].value == 5
    assert points["wait"].sum == 0.5
    assert points["depth"].value == 7


def test_buckets_tell_a_millisecond_from_a_second(recorded: Recorded) -> None:
    took_s = telemetry.histogram("took")
    for value_s in (0.0008, 0.004, 0.03, 0.3, 3.0, 30.0):
        took_s.record(value_s)
    telemetry.histogram("many", unit="{draft}").record(700)
    points = recorded.points()
    assert points["took"].explicit_bounds == _instruments.SECONDS
    assert (min(_instruments.SECONDS), max(_instruments.SECONDS)) == (0.001, 60)
    assert [count for count in points["took"].bucket_counts if count] == [1] * 6
    assert max(points["many"].explicit_bounds) == 10_000


async def test_how_full_batches_are_is_told_in_tenths(recorded: Recorded) -> None:
    async def flush(items: list[int]) -> list[int]:
        return items

    batcher = GroupCommit(flush, fixed_items=4, budget_s=0.001)
    await batcher.submit_many([1])
    await batcher.submit_many([1, 2, 3, 4])
    await batcher.close()
    fill = recorded.points()["batch.fill"]
    assert fill.explicit_bounds == pytest.approx([n / 10 for n in range(1, 11)])
    assert list(fill.bucket_counts) == [0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0]


def test_sums_and_values_are_kept_by_attributes_and_over_collections(recorded: Recorded) -> None:
    sums, depth = telemetry.counter("sums"), telemetry.gauge("depth_by")
    for _ in range(2):
        sums.add(1, {"a": 1, "b": "x"})
        sums.add(2, {"b": "x", "a": 1})
        sums.add(0.5)
        depth.set(_, {"log": "l"})
        data = recorded.series("sums")
    assert data == {(("a", 1), ("b", "x")): 6, (): 1.0}
    assert recorded.series("depth_by") == {(("log", "l"),): 1}
    telemetry.shutdown()
    sums.add(9)
    telemetry.use(recorded.tracer, MeterProvider([again := InMemoryMetricReader()]))
    sums.add(1)
    recorded.reader = again
    assert recorded.series("sums") == {(): 1}


def test_a_level_is_what_its_owners_have_when_it_is_collected(recorded: Recorded) -> None:
    class Owner:
        def __init__(self, number: int, name: str) -> None:
            self.number = number
            depth.watch(self, lambda owner: owner.number, {"name": name})

    depth = telemetry.level("depth_of_owners")
    one, two, other = Owner(3, "a"), Owner(4, "a"), Owner(5, "b")
    assert recorded.series("depth_of_owners") == {(("name", "a"),): 7, (("name", "b"),): 5}
    one.number, other.number = 0, 1
    assert recorded.series("depth_of_owners") == {(("name", "a"),): 4, (("name", "b"),): 1}
    assert two.number == 4
    del one, two, other
    assert recorded.series("depth_of_owners") == {(("name", "a"),): 0, (("name", "b"),): 0}


async def test_what_waits_is_told_while_no_flush_takes_any(recorded: Recorded) -> None:
    """And that of two batchers of one name is added up, each ledger having one."""
    begun, end = asyncio.Event(), asyncio.Event()

    async def hang(items: list[int]) -> list[int]:
        begun.set()
        await end.wait()
        return items

    async def answer(items: list[int]) -> list[int]:
        return items

    def waiting() -> object:
        return recorded.series("batch.queue.items")[("batcher", "of-two"),]

    stuck, quick = GroupCommit(hang, name="of-two"), GroupCommit(answer, name="of-two")
    first = asyncio.create_task(stuck.submit(0))
    await begun.wait()
    assert waiting() == 0
    queued = asyncio.create_task(stuck.submit_many([1, 2, 3]))
    await asyncio.sleep(0)
    assert waiting() == 3
    await quick.submit(1)
    assert waiting() == 3
    end.set()
    await asyncio.gather(first, queued)
    assert waiting() == 0


def test_more_sets_of_attributes_than_allowed_share_one(recorded: Recorded) -> None:
    by_caller = telemetry.counter("by_caller")
    for number in range(_instruments.MAX_SERIES + 5):
        by_caller.add(1, {"caller": number})
    by_caller.add(1, {"caller": 0})
    series = recorded.series("by_caller")
    assert len(series) == _instruments.MAX_SERIES + 1
    assert series[("caller", 0),] == 2
    assert series[("otel.metric.overflow", True),] == 5


def test_threads_lose_no_count(recorded: Recorded) -> None:
    total = telemetry.counter("total")

    def count() -> None:
        for _ in range(20_000):
            total.add(1)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert recorded.series("total") == {(): 80_000}


def test_instruments_do_nothing_while_off() -> None:
    telemetry.counter("c").add()
    telemetry.gauge("g").set(1)
    telemetry.histogram("h").record(1)


def test_flush_span_links_to_the_calls_it_served(recorded: Recorded) -> None:
    refs = []
    for name in ("a", "b"):
        with telemetry.span(name):
            refs.append(telemetry.current_ref())
    with telemetry.span("witness.sign", {telemetry.KID: "w1"}, links=[*refs, None]) as span:
        span.set("items", 2)
    spans = recorded.spans()
    sign = spans["witness.sign"]
    assert {link.context.span_id for link in sign.links} == {
        spans["a"].context.span_id,
        spans["b"].context.span_id,
    }
    assert dict(sign.attributes) == {"provledger.kid": "w1", "items": 2}


def test_failed_span_names_the_type_and_not_the_message(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="s3cret"), telemetry.span("x"):
        raise ValueError("s3cret")
    span = recorded.spans()["x"]
    assert span.attributes == {"error.type": "ValueError"}
    assert not span.status.is_ok
    assert "s3cret" not in span.to_json()


async def test_trace_of_the_caller_goes_on_in_the_callee(recorded: Recorded) -> None:
    async with (
        serving(EchoServicer()) as server,
        channel(f"127.0.0.1:{server.port}") as open_channel,
    ):
        with telemetry.span("caller"):
            await call(EchoStub(open_channel).Echo, b"x", timeout_s=10)
    spans = recorded.spans()
    server_span = spans[f"{SERVICE}/Echo"]
    assert server_span.parent.span_id == spans["caller"].context.span_id
    assert server_span.attributes["rpc.method"] == "Echo"


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A drain goes on although the last spans cannot be handed over."""
    monkeypatch.setattr(telemetry, "SHUTDOWN_S", 0.05)
    asked, answer = threading.Event(), threading.Event()

    class Hanging:
        def shutdown(self) -> None:
            asked.set()
            answer.wait()

        def get_tracer(self, name: str) -> object:
            return object()

    telemetry.use(Hanging(), MeterProvider(shutdown_on_exit=False))
    telemetry.shutdown()
    assert asked.is_set()
    assert not telemetry.enabled()
    answer.set()


@pytest.mark.parametrize("mode", ["console", "1"])
def test_configure_switches_on_what_the_environment_asks_for(mode: str) -> None:
    assert telemetry.configure("ledger", {"PROVLEDGER_OTEL": mode})
    try:
        assert telemetry.enabled()
    finally:
        telemetry.shutdown()
    assert not telemetry.enabled()


class Call:
    """The context of a call, of which tracing looks at the metadata."""

    def __init__(self, traceparent: str = "") -> None:
        self.metadata = (("traceparent", traceparent),) if traceparent else ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata


@pytest.fixture(params=["traceidratio", "parentbased_traceidratio"])
def sampled(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InMemorySpanExporter]:
    """Spans of a service that traces a quarter of what it begins."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(
        "opentelemetry.sdk.trace.export.BatchSpanProcessor",
        lambda _: SimpleSpanProcessor(exporter),
    )
    environ = {"OTEL_TRACES_SAMPLER": request.param, "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(telemetry, "random", random.Random(1))
    # Trace ids, by which OpenTelemetry draws, come from here.
    monkeypatch.setattr("random.getrandbits", random.Random(1).getrandbits)
    assert telemetry.configure("ledger", {**environ, "PROVLEDGER_OTEL": "console"})
    yield exporter
    telemetry.shutdown()


def test_calls_are_drawn_once_and_whole(sampled: InMemorySpanExporter) -> None:
    """Each by the ratio, not by its square, and what is done in a traced one is traced."""
    trace = telemetry.rpc_tracer()
    assert trace is not None
    for _ in range(2000):
        with trace("/a.B/C", Call()):
            with telemetry.span("inner"):
                pass
    names = [span.name for span in sampled.get_finished_spans()]
    assert 400 <= names.count("a.B/C") <= 600
    assert names.count("inner") == names.count("a.B/C")


def test_calls_follow_their_caller(sampled: InMemorySpanExporter) -> None:
    trace = telemetry.rpc_tracer()
    assert trace is not None
    for number in range(1, 201):
        # By the lower half of the trace id OpenTelemetry would draw.
        trace_id = f"{number:016x}{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
        for flags in ("00", "01"):
            with (
                trace(f"/a.B/{flags}", Call(f"00-{trace_id}-00f067aa0ba902b7-{flags}")),
                telemetry.span(f"inner-{flags}"),
            ):
                pass
    names = [span.name for span in sampled.get_finished_spans()]
    assert (names.count("a.B/01"), names.count("a.B/00")) == (200, 0)
    assert (names.count("inner-01"), names.count("inner-00")) == (200, 0)


def test_a_call_that_its_caller_does_not_trace_begins_no_trace(recorded: Recorded) -> None:
    """Where everything else is traced, too; and whom it calls is told."""
    trace = telemetry.rpc_tracer()
    assert trace is not None
    untraced = Call(f"00-{'a' * 32}-{'b' * 16}-00")
    with trace("/a.B/C", untraced):
        with telemetry.span("head.sign"):
            assert telemetry.current_ref() is None
        ((_, told),) = telemetry.outgoing_metadata() or ()
        assert told.endswith("-00")
        with trace("/a.B/Inner", Call(told)):
            pass
        # The end of what is within it is not its own.
        with telemetry.span("head.sign"):
            assert telemetry.current_ref() is None
    assert recorded.spans() == {}
    with telemetry.span("later"):
        assert telemetry.current_ref() is not None


def test_spans_of_no_call_are_drawn_by_the_same_ratio(sampled: InMemorySpanExporter) -> None:
    for _ in range(2000):
        with telemetry.span("anchor.commit"), telemetry.span("checkpoint.sign"):
            pass
    names = [span.name for span in sampled.get_finished_spans()]
    assert 400 <= names.count("anchor.commit") <= 600
    assert names.count("checkpoint.sign") == names.count("anchor.commit")


def test_a_flush_is_traced_with_a_call_that_it_served(sampled: InMemorySpanExporter) -> None:
    trace = telemetry.rpc_tracer()
    assert trace is not None
    flushes = 0
    for _ in range(400):
        with trace("/a.B/C", Call()):
            ref = telemetry.current_ref()
        flushes += ref is not None
        with telemetry.span("witness.sign", links=[None, ref]):
            assert ref is None or telemetry.current_ref() is not None
    names = [span.name for span in sampled.get_finished_spans()]
    # All those, and a quarter of the others.
    assert flushes + 50 <= names.count("witness.sign") <= flushes + 100


def test_whom_an_untraced_flush_calls_is_told_so(sampled: InMemorySpanExporter) -> None:
    trace = telemetry.rpc_tracer()
    assert trace is not None
    told = []
    for _ in range(200):
        with telemetry.span("receipt.create"):
            ((key, value),) = telemetry.outgoing_metadata() or ()
            assert key == "traceparent"
            traced = telemetry.current_ref() is not None
            with trace("/a.B/C", Call(value)):
                told.append((traced, telemetry.current_ref() is not None))
        # What begins after it draws for itself.
        assert telemetry.outgoing_metadata() is None
    assert set(told) == {(True, True), (False, False)}


@pytest.mark.parametrize("ratio", ["", "many", "nan", "-0.1", "1.1"])
def test_a_ratio_that_is_none_traces_everything(ratio: str) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    assert telemetry.configure("ledger", {**environ, "PROVLEDGER_OTEL": "console"})
    try:
        trace = telemetry.rpc_tracer()
        assert trace is not None
        for _ in range(50):
            with trace("/a.B/C", Call()):
                assert telemetry.current_ref() is not None
    finally:
        telemetry.shutdown()


@pytest.mark.parametrize("mode", ["", "0", "false", "no", "off", " Off "])
def test_what_says_no_switches_nothing_on(mode: str) -> None:
    assert not telemetry.configure("ledger", {"PROVLEDGER_OTEL": mode})
    assert not telemetry.enabled()


@pytest.mark.parametrize("mode", ["maybe", "2", "grpc"])
def test_a_mode_that_is_none_is_neither_on_nor_off(mode: str) -> None:
    with pytest.raises(ConfigError, match="PROVLEDGER_OTEL"):
        telemetry.configure("ledger", {"PROVLEDGER_OTEL": mode})
    assert not telemetry.enabled()


def test_what_opentelemetry_refuses_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "s3cret")
    with pytest.raises(ConfigError, match="OTEL_") as caught:
        telemetry.configure("ledger", {"PROVLEDGER_OTEL": "1"})
    assert "s3cret" not in str(caught.value)
    assert not telemetry.enabled()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADERS", "authorization:Bearer s3cret"),
        ("HEADERS", 'a=b,api-key="s3cret"'),
        ("TRACES_HEADERS", "api key=s3cret"),
        ("METRICS_HEADERS", "=s3cret"),
        ("ENDPOINT", "http://user:s3cret@127.0.0.1:1"),
        ("TRACES_ENDPOINT", "user:s3cret@127.0.0.1:1"),
        ("METRICS_ENDPOINT", "https://s3cret@[::1]:1/path"),
    ],
)
def test_secrets_that_no_collector_would_get_are_refused_and_not_told(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"OTEL_EXPORTER_OTLP_{name}"
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        telemetry.configure("ledger", {"PROVLEDGER_OTEL": "1", name: value})
    assert "s3cret" not in str(caught.value)
    assert not telemetry.enabled()
    # Who does not export over OTLP does not read them.
    assert telemetry.configure("ledger", {"PROVLEDGER_OTEL": "console", name: value})
    telemetry.shutdown()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADERS", "authorization=Bearer%20x, a = b,,A=b=c\n"),
        ("HEADERS", "authorization=Bearer x/y"),
        ("HEADERS", ""),
        ("ENDPOINT", "http://127.0.0.1:1/a@b"),
        ("ENDPOINT", "127.0.0.1:1"),
    ],
)
def test_headers_and_addresses_that_opentelemetry_takes_are_taken(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"OTEL_EXPORTER_OTLP_{name}"
    monkeypatch.setattr(telemetry, "SHUTDOWN_S", 0.05)
    monkeypatch.setenv(name, value)
    assert telemetry.configure("ledger", {"PROVLEDGER_OTEL": "1", name: value})
    telemetry.shutdown()


async def test_flushes_are_no_part_of_the_call_that_needed_a_batcher_first(
    recorded: Recorded,
) -> None:
    async def flush(items: list[int]) -> list[int]:
        with telemetry.span("flush"):
            return items

    with telemetry.span("first"):
        batcher = GroupCommit(flush)
        assert await batcher.submit(1) == 1
    await batcher.close()
    assert recorded.spans()["flush"].parent is None
