"""An OpenTelemetry collector that keeps what it is sent: OTLP over gRPC, spans only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc


@dataclass(frozen=True)
class ExportedSpan:
    """One span as it arrived. `failed`: its status is an error."""

    service: str
    name: str
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    """What arrived; `endpoint` is what OTEL_EXPORTER_OTLP_ENDPOINT is set to."""

    endpoint: str = ""
    spans: list[ExportedSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: trace_pb.ExportTraceServiceRequest) -> None:
        """Keep the spans of one request."""
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes).get("service.name", "")
            taken = [
                ExportedSpan(
                    str(service), span.name, _attributes(span.attributes), span.status.code == 2
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]
            with self._lock:
                self.spans += taken

    def named(self, name: str) -> list[ExportedSpan]:
        """The spans of a name, in the order in which they arrived."""
        with self._lock:
            return [span for span in self.spans if span.name == name]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class _Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> trace_pb.ExportTraceServiceResponse:
        self._collector.take(request)
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def Export(self, request: Any, context: Any) -> metrics_pb.ExportMetricsServiceResponse:
        return metrics_pb.ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of loopback, for as long as the context lasts."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None)
