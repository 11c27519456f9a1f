"""Instruments of `provledger.telemetry`: declared at any time, bound to a meter once there is one.

OpenTelemetry takes some 7 µs to add to a counter or to set a gauge. Sums and present values are
kept here instead, which takes a tenth of that, and OpenTelemetry asks for them when it collects. A
value that changes with every call is not even kept, but looked at when it is asked for (`Level`).
Distributions have no such way: they are recorded for each flush, not for each item.
"""

from __future__ import annotations

import importlib
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

Attribute = str | bool | int | float
Attributes = Mapping[str, Attribute]

MAX_SERIES: Final = 2000
"""Sets of attributes of one instrument; OpenTelemetry's own default. More share `_OVERFLOW`."""

SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 25.0, 60.0),
)
"""Bounds of the buckets of durations. OpenTelemetry's own, 0, 5, 10 to 10,000, are meant for
milliseconds: of what is in seconds, nearly all would be between the first two."""

_Key = frozenset[tuple[str, Attribute]]
_NONE: Final[_Key] = frozenset()
_OVERFLOW: Final[_Key] = frozenset({("otel.metric.overflow", True)})


class _Instrument:
    """Common part of the instruments: a name now, something to report to once switched on."""

    __slots__ = ("_kind", "_real", "doc", "name", "unit")

    def __init__(self, kind: str, name: str, unit: str, doc: str) -> None:
        self._kind = kind
        self.name = name
        self.unit = unit
        self.doc = doc
        self._real: Any = None
        _declared.add(self)

    def bind(self, meter: Any) -> None:
        """Report to an instrument of `meter` from now on; None switches off."""
        if meter is None:
            self._real = None
        else:
            create = getattr(meter, f"create_{self._kind}")
            self._real = create(self.name, **self._options(), unit=self.unit, description=self.doc)

    def _options(self) -> dict[str, Any]:
        return {}


class _Kept(_Instrument):
    """Keeps a number for each set of attributes until it is asked for them. In any thread."""

    __slots__ = ("_lock", "_numbers", "_observation")

    def __init__(self, kind: str, name: str, unit: str, doc: str) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[_Key, int | float] = {}
        self._observation: Callable[..., Any] = tuple
        super().__init__(kind, name, unit, doc)

    def bind(self, meter: Any) -> None:
        """As `_Instrument` has it. Sums begin anew."""
        with self._lock:
            self._numbers.clear()
        super().bind(meter)

    def _options(self) -> dict[str, Any]:
        self._observation = importlib.import_module("opentelemetry.metrics").Observation
        return {"callbacks": [self._observe]}

    def _observe(self, _options: Any) -> Iterable[Any]:
        with self._lock:
            numbers = list(self._numbers.items())
        return [self._observation(number, dict(key)) for key, number in numbers]

    def _series(self, attributes: Attributes | None) -> _Key:
        """The key of a set of attributes; with the lock held."""
        key = frozenset(attributes.items()) if attributes else _NONE
        if key not in self._numbers and len(self._numbers) >= MAX_SERIES:
            return _OVERFLOW
        return key


class Counter(_Kept):
    """A sum that only grows."""

    __slots__ = ()

    def add(self, amount: int | float = 1, attributes: Attributes | None = None) -> None:
        """Add `amount`, which is not negative."""
        if self._real is not None:
            with self._lock:
                key = self._series(attributes)
                self._numbers[key] = self._numbers.get(key, 0) + amount


class Gauge(_Kept):
    """A value as of now."""

    __slots__ = ()

    def set(self, value: int | float, attributes: Attributes | None = None) -> None:
        """Record the present value."""
        if self._real is not None:
            with self._lock:
                self._numbers[self._series(attributes)] = value


class Level(_Instrument):
    """A value as of when it is collected: the sum of what its owners have then."""

    __slots__ = ("_observation", "_owners", "_seen")

    def __init__(self, kind: str, name: str, unit: str, doc: str) -> None:
        self._owners: dict[weakref.ref[Any], tuple[_Key, Callable[[Any], int | float]]] = {}
        self._seen: set[_Key] = set()
        self._observation: Callable[..., Any] = tuple
        super().__init__(kind, name, unit, doc)

    def watch(
        self, owner: T, read: Callable[[T], int | float], attributes: Attributes | None = None
    ) -> None:
        """Ask `read` what an owner has, in any thread, for as long as there is that owner.

        attributes: few sets in all, which are reported as 0 once their owners are gone.
        """
        key = frozenset(attributes.items()) if attributes else _NONE
        self._owners[weakref.ref(owner, self._owners.pop)] = (key, read)

    def _options(self) -> dict[str, Any]:
        self._observation = importlib.import_module("opentelemetry.metrics").Observation
        return {"callbacks": [self._observe]}

    def _observe(self, _options: Any) -> Iterable[Any]:
        numbers: dict[_Key, int | float] = dict.fromkeys(self._seen, 0)
        # A copy, made without a step in which an owner could come or go: they do, in any thread.
        for reference in list(self._owners):
            owner, held = reference(), self._owners.get(reference)
            if owner is not None and held is not None:
                key, read = held
                numbers[key] = numbers.get(key, 0) + read(owner)
        self._seen.update(numbers)
        return [self._observation(number, dict(key)) for key, number in numbers.items()]


class Histogram(_Instrument):
    """A distribution, of latencies and sizes."""

    __slots__ = ("_bounds",)

    def __init__(
        self, kind: str, name: str, unit: str, doc: str, bounds: Sequence[float] | None
    ) -> None:
        self._bounds = bounds
        super().__init__(kind, name, unit, doc)

    def _options(self) -> dict[str, Any]:
        return {"explicit_bucket_boundaries_advisory": self._bounds}

    def record(self, value: int | float, attributes: Attributes | None = None) -> None:
        """Record one value in the instrument's unit."""
        if self._real is not None:
            self._real.record(value, attributes)


class _Declared:
    """All instruments of the process, and the meter that they report to."""

    def __init__(self) -> None:
        self._all: list[_Instrument] = []
        self._meter: Any = None

    def add(self, instrument: _Instrument) -> None:
        self._all.append(instrument)
        if self._meter is not None:
            instrument.bind(self._meter)

    def bind(self, meter: Any) -> None:
        self._meter = meter
        for instrument in self._all:
            instrument.bind(meter)


_declared: Final = _Declared()


def bind(meter: Any) -> None:
    """Have all instruments, also those declared later, report to `meter`; None switches off."""
    _declared.bind(meter)


def counter(name: str, *, unit: str = "1", doc: str = "") -> Counter:
    """A counter; declare it once, at module level."""
    return Counter("observable_counter", name, unit, doc)


def histogram(
    name: str, *, unit: str = "s", doc: str = "", bounds: Sequence[float] | None = None
) -> Histogram:
    """A histogram; declare it once, at module level.

    bounds: of its buckets, ascending, each inclusive. None for `SECONDS` where that is the unit,
    else for OpenTelemetry's own, which suit counts: 0, 5, 10, 25 and so on to 10,000.
    """
    if bounds is None and unit == "s":
        bounds = SECONDS
    return Histogram("histogram", name, unit, doc, bounds)


def gauge(name: str, *, unit: str = "", doc: str = "") -> Gauge:
    """A gauge; declare it once, at module level.

    unit: none where it counts or says yes or no. With `1`, a collector would call it `_ratio` in
    Prometheus, and our own /metrics would not.
    """
    return Gauge("observable_gauge", name, unit, doc)


def level(name: str, *, unit: str = "", doc: str = "") -> Level:
    """A gauge that is read when it is collected; declare it once, at module level.

    unit: as of `gauge`.
    """
    return Level("observable_gauge", name, unit, doc)
