"""What is sent when: fixed in advance by a seed, and asking nobody how it goes. Pure.

Arrivals are a Poisson process (pauses are exponential, bursts happen) or evenly spaced. What each
request is (see `KINDS`), for which ledger and how large, is drawn by weight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

from provledger.errors import InputError

Kind = Literal["single", "shared", "batch", "stream"]
KINDS: Final[tuple[Kind, ...]] = ("single", "shared", "batch", "stream")
"""A single append in a call of its own, or by the Python client, which shares calls; a batch; a
message on a stream."""

MAX_SIZE_BYTES: Final = 512 * 1024
_SIZE_DIGITS: Final = len(str(MAX_SIZE_BYTES))
GROWTH: Final = 1.5


class Arrival(NamedTuple):
    """A request that is due `at_s` after the start: its kind, its ledger, bytes of each state."""

    at_s: float
    kind: str
    ledger: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What requests are like. Each choice is of (value, weight) pairs.

    batch_items: drafts in a batch. poisson: else evenly spaced.
    """

    kinds: Sequence[tuple[str, float]] = (("single", 1.0),)
    ledgers: Sequence[tuple[str, float]]
    sizes: Sequence[tuple[int, float]] = ((1024, 1.0),)
    batch_items: int = 100
    poisson: bool = True

    def to_json(self) -> dict[str, Any]:
        """For a client process, and for the record."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Traffic:
        """What `to_json` made."""
        return cls(**value)


def arrivals(traffic: Traffic, rate_per_s: float, seconds: float, seed: str) -> Iterator[Arrival]:
    """The requests of `seconds` at a mean rate, in order of time."""
    rng = random.Random(seed)  # noqa: S311 - it must be repeatable
    kinds, ledgers, sizes = map(_choice, (traffic.kinds, traffic.ledgers, traffic.sizes))
    pause_s = 1.0 / rate_per_s
    # Evenly spaced processes do not all send at the same moment.
    at_s = rng.expovariate(rate_per_s) if traffic.poisson else rng.random() * pause_s
    while at_s < seconds:
        kind, ledger, size = (
            rng.choices(values, weights)[0] if len(values) > 1 else values[0]
            for values, weights in (kinds, ledgers, sizes)
        )
        yield Arrival(at_s, kind, ledger, size)
        at_s += rng.expovariate(rate_per_s) if traffic.poisson else pause_s


def _choice(pairs: Sequence[tuple[Any, float]]) -> tuple[list[Any], list[float]]:
    return [value for value, _ in pairs], [weight for _, weight in pairs]


def parse_weights(text: str, what: str) -> list[tuple[str, float]]:
    """`single=8,batch=1` as pairs; a weight left out is 1.

    Raises:
        InputError: an empty name, or a weight that is not positive.
    """
    pairs = []
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            value = float(weight or "1")
        except ValueError:
            value = 0.0
        if not name or not 0.0 < value < float("inf"):
            raise InputError(f"{what}: {part.strip()!r} is not NAME or NAME=WEIGHT")
        pairs.append((name, value))
    return pairs


def parse_kinds(text: str) -> list[tuple[str, float]]:
    """The mix of kinds; raises InputError."""
    pairs = parse_weights(text, "--mix")
    for name, _ in pairs:
        if name not in KINDS:
            raise InputError(f"--mix: {name!r} is none of {', '.join(KINDS)}")
    return pairs


def parse_sizes(text: str) -> list[tuple[int, float]]:
    """The mix of sizes in bytes; raises InputError."""
    sizes = []
    for name, weight in parse_weights(text, "--sizes"):
        digits = name.isascii() and name.isdigit() and len(name) <= _SIZE_DIGITS
        if not digits or not 64 <= int(name) <= MAX_SIZE_BYTES:
            raise InputError(f"--sizes: {name!r} is not a number of bytes, 64 to {MAX_SIZE_BYTES}")
        sizes.append((int(name), weight))
    return sizes


def parse_rates(text: str) -> list[float]:
    """`50,100,200` as rates that grow; raises InputError."""
    rates: list[float] = []
    for part in text.split(","):
        try:
            rate = float(part)
        except ValueError:
            rate = 0.0
        if not 0.0 < rate <= 1e6 or (rates and rate <= rates[-1]):
            raise InputError("--rates: growing numbers of requests a second, such as 50,100,200")
        rates.append(rate)
    return rates


def next_rate(rate_per_s: float) -> float:
    """Half as much again: a whole number, if it is not less than one."""
    rate = GROWTH * rate_per_s
    return float(round(rate)) if rate >= 1.0 else float(f"{rate:.3g}")
