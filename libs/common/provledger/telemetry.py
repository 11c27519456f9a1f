"""Spans and metrics (OpenTelemetry) that cost nothing until an exporter is configured.

Off, which is the default, `span` hands out one shared object that does nothing, and an instrument
is an attribute test. `configure` turns it on where OTEL_EXPORTER_OTLP_ENDPOINT is set or
PROVLEDGER_OTEL is `1` (OTLP) or `console` (stderr), and the `otel` extra is installed; nothing of
OpenTelemetry is imported before that.

Span names: `receipt.create`, `receipt.verify`, `witness.sign`, `anchor.commit`; every span that
signs or verifies carries the attribute `KID`. Batches get one span for each flush, linked to the
calls it served: `current_ref()` at submission, `span(..., links=refs)` at the flush. Spans without
a parent are drawn before they are made, since the stock instrumentation costs a quarter of the
throughput; a flush that served a traced call is traced with it.
No attribute may hold a payload, a salt or a secret.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from provledger import _instruments, logs
from provledger._instruments import (
    Attribute,
    Attributes,
    Counter,
    Gauge,
    Histogram,
    Level,
    counter,
    gauge,
    histogram,
    level,
)
from provledger.settings import ConfigError

__all__ = [
    "KID",
    "MAX_LINKS",
    "SHUTDOWN_S",
    "Attribute",
    "Attributes",
    "Counter",
    "Gauge",
    "Histogram",
    "Level",
    "Span",
    "configure",
    "counter",
    "current_ref",
    "current_trace_id",
    "enabled",
    "gauge",
    "histogram",
    "level",
    "outgoing_metadata",
    "rpc_tracer",
    "scrape",
    "shutdown",
    "span",
    "use",
]

log = logs.get(__name__)

KID: Final = "provledger.kid"

SHUTDOWN_S: Final = 2.0
"""How long the end of a process waits for what is not exported yet. A collector that is away must
not hold up a drain: OpenTelemetry itself would go on trying for half a minute."""

MAX_LINKS: Final = 128
"""Links on one span at most, as in OpenTelemetry's default limits."""


class Span(Protocol):
    """What `span` gives: set attributes on it."""

    def set(self, key: str, value: Attribute) -> None:
        """Set one attribute."""


class _NoSpan:
    """The span of switched-off tracing: one object for all, a context manager doing nothing."""

    __slots__ = ()

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, key: str, value: Attribute) -> None:
        """Do nothing."""


class _Undrawn(_NoSpan):
    """Around work that is not traced, by chance or since its caller does not: what it begins is
    not, either."""

    __slots__ = ()

    def __enter__(self) -> _NoSpan:
        _undrawn.set(True)
        return _NO_SPAN

    def __exit__(self, *_: object) -> None:
        _undrawn.set(False)


class _OtelSpan:
    __slots__ = ("_span",)

    def __init__(self, inner: Any) -> None:
        self._span = inner

    def set(self, key: str, value: Attribute) -> None:
        self._span.set_attribute(key, value)


_ON: Final = frozenset({"1", "true", "yes", "on", "otlp"})
_OFF: Final = frozenset({"", "0", "false", "no", "off"})
_OTLP_HEADERS: Final = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
)
_OTLP_ADDRESSES: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_NO_SPAN: Final = _NoSpan()
_UNDRAWN: Final = _Undrawn()
_NO_METADATA: Final[tuple[tuple[str, str], ...]] = ()
_NOT_SAMPLED: Final = (("traceparent", f"00-{'1' * 32}-{'1' * 16}-00"),)
"""Tells whom we call that nothing is traced (W3C Trace Context §3.2.2.5); the ids say nothing."""
_undrawn: Final[ContextVar[bool]] = ContextVar("undrawn", default=False)


class _State:
    """What `configure` sets up: None everywhere while off."""

    def __init__(self) -> None:
        self.tracer: Any = None
        self.trace_api: Any = None
        self.propagator: Any = None
        self.providers: list[Any] = []
        self.ratio: float = 1.0
        self.scraped = False


_state: Final = _State()


def enabled() -> bool:
    """Whether spans are made at all; for work that only serves an attribute."""
    return _state.tracer is not None


def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    links: Iterable[object] = (),
) -> AbstractContextManager[Span]:
    """A span around a `with` block. `links` are values of `current_ref`, None among them skipped.

    An exception that leaves the block marks the span as failed by its type, not its message.
    """
    if _state.tracer is None:
        return _NO_SPAN
    refs = [ref for ref in links if ref is not None][:MAX_LINKS]
    if not refs and current_ref() is None:
        if _undrawn.get():
            return _NO_SPAN
        if _state.ratio < 1.0 and random.random() >= _state.ratio:  # noqa: S311
            return _UNDRAWN
    return _real_span(name, attributes, refs)


@contextmanager
def _real_span(
    name: str,
    attributes: Attributes | None,
    refs: Iterable[object],
    *,
    parent: Any = None,
    kind: Any = None,
) -> Iterator[_OtelSpan]:
    api = _state.trace_api
    extra = {} if kind is None else {"kind": kind}
    with _state.tracer.start_as_current_span(
        name,
        context=parent,
        attributes=dict(attributes or {}),
        links=[api.Link(ref) for ref in refs],
        record_exception=False,
        set_status_on_exception=False,
        **extra,
    ) as inner:
        try:
            yield _OtelSpan(inner)
        except BaseException as exc:
            inner.set_attribute("error.type", type(exc).__name__)
            inner.set_status(api.Status(api.StatusCode.ERROR))
            raise


def current_ref() -> object | None:
    """The current span as something to link to later; None while tracing is off."""
    if _state.tracer is None:
        return None
    context = _state.trace_api.get_current_span().get_span_context()
    return context if context.is_valid else None


def current_trace_id() -> str:
    """Trace id of the current span, 32 hexadecimal digits, else ""."""
    if _state.tracer is None:
        return ""
    context = _state.trace_api.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def outgoing_metadata() -> tuple[tuple[str, str], ...] | None:
    """gRPC metadata that carries the current trace to the callee; None while tracing is off."""
    if _state.tracer is None:
        return None
    if _undrawn.get() and current_ref() is None:
        return _NOT_SAMPLED
    carrier: dict[str, str] = {}
    _state.propagator.inject(carrier)
    return tuple(carrier.items()) or None


def rpc_tracer() -> Callable[[str, Any], AbstractContextManager[object]] | None:
    """A hook that opens a server span around an RPC (`/pkg.Service/Method`, servicer context).

    None while tracing is off. A call is traced if its caller sampled it, and not, nor what it
    begins, if its caller did not; of calls that say neither, a share of OTEL_TRACES_SAMPLER_ARG is.
    """
    if _state.tracer is None:
        return None

    def trace(method: str, context: Any) -> AbstractContextManager[object]:
        carrier: dict[str, str] = {}
        for key, value in context.invocation_metadata() or _NO_METADATA:
            if key in ("traceparent", "tracestate"):
                carrier[key] = value
        traceparent = carrier.get("traceparent", "")
        by_chance = not traceparent and random.random() < _state.ratio  # noqa: S311
        if not by_chance and not _is_sampled(traceparent):
            # Whoever is in work that is not traced already is at its end, too, not at this one's.
            return _NO_SPAN if _undrawn.get() else _UNDRAWN
        service, _, name = method.lstrip("/").partition("/")
        return _real_span(
            f"{service}/{name}",
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            (),
            parent=_state.propagator.extract(carrier),
            kind=_state.trace_api.SpanKind.SERVER,
        )

    return trace


def _is_sampled(traceparent: str) -> bool:
    """Bit 0 of the flags, the last two digits of version 00 (W3C Trace Context §3.2.2.5)."""
    return len(traceparent) == 55 and traceparent[-1] in "13579bdf"


def configure(service: str, env: Mapping[str, str] | None = None, *, scraped: bool = False) -> bool:
    """Switch on what the environment asks for; whether anything was switched on.

    scraped: metrics are kept for `scrape` as well, whatever the environment says.

    Raises:
        ConfigError: the environment asks for what cannot be.
    """
    environ = os.environ if env is None else env
    mode = environ.get("PROVLEDGER_OTEL", "").strip().lower()
    if mode not in _OFF | _ON | {"console"}:
        # Never taken for "on" or "off": whoever set it meant something.
        raise ConfigError("PROVLEDGER_OTEL: must be 1, 0 or console")
    wanted = bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")) or mode not in _OFF
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not (wanted or scraped) or disabled:
        return False
    export = ("console" if mode == "console" else "otlp") if wanted else ""
    ratio = _ratio(environ)
    try:
        if export == "otlp":
            _check_otlp(environ)
        tracer_provider, meter_provider = _providers(service, export, ratio, scraped=scraped)
    except ImportError as error:
        extra = "otel" if wanted else "gateway"
        log.warning("telemetry.not_installed", missing=error.name or "", extra=extra)
        return False
    except ConfigError:
        raise
    except Exception as error:
        # What OpenTelemetry makes of its own variables; headers of OTLP, a secret, are one.
        raise ConfigError(
            f"OpenTelemetry cannot be set up with the OTEL_* variables: {type(error).__name__}"
        ) from None
    use(tracer_provider, meter_provider)
    _state.ratio = 1.0 if ratio is None else ratio
    return True


def _check_otlp(environ: Mapping[str, str]) -> None:
    """Refuse variables of OTLP whose secret OpenTelemetry would not send, but write into the log.

    Raises:
        ConfigError: a header that it leaves out, or an address with a user in it.
    """
    parse = importlib.import_module("opentelemetry.util.re").parse_env_headers
    for name in _OTLP_HEADERS:
        # One by one: of two of one name, one is left.
        given = [header for header in environ.get(name, "").split(",") if header.strip()]
        if not all(parse(header, liberal=True) for header in given):
            raise ConfigError(f"{name}: must be a comma-separated list of name=value")
    for name in _OTLP_ADDRESSES:
        address = environ.get(name, "")
        # No URL at all may be one, too: host and port alone.
        host = (address.partition("://")[2] or address).partition("/")[0]
        if "@" in host:
            raise ConfigError(f"{name}: must not have a user or a password; they go into headers")


def _ratio(environ: Mapping[str, str]) -> float | None:
    """The share of traces to begin, 0 to 1; None where the sampler is not one of a ratio."""
    if "traceidratio" not in environ.get("OTEL_TRACES_SAMPLER", "").lower():
        return None
    try:
        ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    except ValueError:
        ratio = float("nan")
    if not 0.0 <= ratio <= 1.0:
        log.warning("telemetry.bad_sampler_arg")
        return 1.0
    return ratio


def use(tracer_provider: Any, meter_provider: Any) -> None:
    """Use these OpenTelemetry providers; for `configure`, tests and embedding applications.

    Without a tracer provider, metrics alone are on.
    """
    if tracer_provider is not None:
        _state.trace_api = importlib.import_module("opentelemetry.trace")
        tracecontext = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
        _state.propagator = tracecontext.TraceContextTextMapPropagator()
        _state.tracer = tracer_provider.get_tracer("provledger")
        logs.trace_id = current_trace_id
    _state.providers = [item for item in (tracer_provider, meter_provider) if item is not None]
    _instruments.bind(meter_provider.get_meter("provledger"))


def scrape() -> tuple[bytes, str] | None:
    """All metrics in Prometheus' text format with its media type; None unless kept for it."""
    if not _state.scraped:
        return None
    exposition: Any = importlib.import_module("prometheus_client")
    return exposition.generate_latest(), exposition.CONTENT_TYPE_LATEST


def shutdown() -> None:
    """Export what is pending, for `SHUTDOWN_S` at most, and switch off."""
    providers, _state.providers = _state.providers, []
    _state.tracer = None
    _state.ratio = 1.0
    _state.scraped = False
    logs.trace_id = None
    _instruments.bind(None)
    deadline_s = time.monotonic() + SHUTDOWN_S
    ending = [threading.Thread(target=each.shutdown, daemon=True) for each in providers]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    if any(thread.is_alive() for thread in ending):
        log.warning("telemetry.not_exported", waited_s=SHUTDOWN_S)


def _providers(service: str, export: str, ratio: float | None, *, scraped: bool) -> tuple[Any, Any]:
    """Tracer and meter provider; export: `otlp`, `console`, or "" for no traces and no exporter.

    ratio: of the traces to begin; None leaves it to OpenTelemetry what is sampled.
    Imported by name: the packages are in optional extras.
    """
    sdk = "opentelemetry.sdk"
    sdk_metrics = importlib.import_module(f"{sdk}.metrics")
    resource = importlib.import_module(f"{sdk}.resources").Resource.create(
        {"service.name": f"provledger-{service}", "service.namespace": "provledger"}
    )
    tracer_provider, readers = None, []
    if export:
        span_exporter, metric_exporter = _exporters(export)
        sdk_trace = importlib.import_module(f"{sdk}.trace")
        trace_export = importlib.import_module(f"{sdk}.trace.export")
        sampler = None
        if ratio is not None:
            sampling = importlib.import_module(f"{sdk}.trace.sampling")
            # What has no parent was drawn before it was made.
            sampler = sampling.ParentBased(sampling.ALWAYS_ON)
        tracer_provider = sdk_trace.TracerProvider(
            sampler=sampler, resource=resource, shutdown_on_exit=False
        )
        tracer_provider.add_span_processor(trace_export.BatchSpanProcessor(span_exporter))
        metrics_export = importlib.import_module(f"{sdk}.metrics.export")
        readers.append(metrics_export.PeriodicExportingMetricReader(metric_exporter))
    if scraped:
        prometheus = importlib.import_module("opentelemetry.exporter.prometheus")
        readers.append(prometheus.PrometheusMetricReader(scope_info_enabled=False))
        _state.scraped = True
    # `shutdown` ends them, within its time; what OpenTelemetry does at exit has no limit of ours.
    return tracer_provider, sdk_metrics.MeterProvider(
        resource=resource, metric_readers=readers, shutdown_on_exit=False
    )


def _exporters(export: str) -> tuple[Any, Any]:
    """Of spans and of metrics."""
    if export == "console":
        trace_export = importlib.import_module("opentelemetry.sdk.trace.export")
        metrics_export = importlib.import_module("opentelemetry.sdk.metrics.export")
        return (
            trace_export.ConsoleSpanExporter(out=sys.stderr),
            metrics_export.ConsoleMetricExporter(out=sys.stderr),
        )
    otlp = "opentelemetry.exporter.otlp.proto.grpc"
    return (
        importlib.import_module(f"{otlp}.trace_exporter").OTLPSpanExporter(),
        importlib.import_module(f"{otlp}.metric_exporter").OTLPMetricExporter(),
    )
