"""Metrics as an exporter sees them: what each series of an instrument reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from provledger import telemetry

Labels = frozenset[tuple[str, object]]


class Meter:
    """Reads the instruments of this process."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()

    def series(self, name: str) -> dict[Labels, float]:
        """The value of each series of a counter or gauge, by its labels."""
        data = self.reader.get_metrics_data()
        return {
            frozenset((point.attributes or {}).items()): point.value
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }

    def value(self, name: str, **labels: object) -> float | None:
        """One series, None while nothing was recorded."""
        return self.series(name).get(frozenset(labels.items()))


@contextmanager
def metered() -> Iterator[Meter]:
    """Metrics are on, tracing is off."""
    meter = Meter()
    telemetry.use(None, MeterProvider([meter.reader], shutdown_on_exit=False))
    try:
        yield meter
    finally:
        telemetry.shutdown()
