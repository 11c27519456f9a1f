"""How much may be in work, and whose: the decisions of admission, without a clock or I/O.

Work is counted in units, about what half a kibibyte of a draft costs; a call costs some by itself.
Two things bound it:

- `Limiter`: as much as is answered in time. The signal is how long drafts wait for their flush, as
  in WeChat's DAGOR (SoCC 2018), not how long an answer takes: a slow key service is no overload.
  The limit shrinks by a part while they wait too long, and grows by steps while it is what keeps
  work out (additive increase, multiplicative decrease).
- `may_enter`: a tenant may hold so many times what is still free (dynamic thresholds, Choudhury
  and Hahne 1998). One alone gets most of it, many get equal parts, and something always stays free
  for the next, whom nobody has to be thrown out for.

Times are seconds of any one monotonic clock, given by the caller.
"""

from __future__ import annotations

from typing import Final

UNIT_BYTES: Final = 512
CALL_UNITS: Final = 4
SMALL_CALL_BYTES: Final = 4096
"""A call of no more than this is a small one: what it costs is the call, and not its bytes."""

SHARE: Final = 3.0
"""A tenant may hold this many times what is free: three quarters, if it is alone."""

MIN_UNITS: Final = 2048
MAX_UNITS: Final = 65_536
_FIRST_UNITS: Final = 8192
_SMALL_UNITS: Final = 3584
"""Half a thousand calls with a draft of a kibibyte each."""
_STEP_UNITS: Final = 64
_RISE: Final = 0.04
_CUT: Final = 0.85
_EVERY_S: Final = 0.05
"""The limit moves once in so long: what a change does shows only some flushes later."""
_LEARN: Final = 0.2
_SPAN_S: Final = 0.3
"""How long work is counted before it says anything about the pace: calls end in bunches, those that
share a flush together."""
_STILL_S: Final = _SPAN_S / 4
"""A span says nothing if nobody was turned away for so long at its end."""
_FADE: Final = 0.5
_FORGET_S: Final = 10.0
_MIN_RETRY_S: Final = 0.05
_MAX_RETRY_S: Final = 5.0


def units_of(size_bytes: int) -> int:
    """What a call of so many bytes costs."""
    return CALL_UNITS + size_bytes // UNIT_BYTES + 1


def may_enter(held: float, used: float, limit: float) -> bool:
    """Whether who holds `held` may hold more, with `used` of `limit` taken by all together."""
    return held < SHARE * (limit - used)


class Limiter:
    """How many units may be in work. `limit` lies between `MIN_UNITS` and `MAX_UNITS`.

    Every draft waits for one flush to end before its own begins; with a distant key service or a
    slow disk that alone is long. What a flush takes by itself is learnt from small ones that ran
    alone. Under a load that leaves none alone it is learnt at the lowest limit: where so little is
    in work, what still takes long is not the queue.

    target_s: how long a draft may wait for its flush, beside that.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._alone_s: float | None = None
        self._drained = True
        self._idle_s = 0.0
        """What the first flush takes when nothing was in work: the event loop has no part in it."""
        self._moved_s = float("-inf")
        self._refused = False
        self.limit = float(_FIRST_UNITS)

    @property
    def small_limit(self) -> float:
        """How many units of small calls may be in work.

        They spend their time in the event loop more than in the queue of their flush, where it
        could be seen. So there is a number with which the loop is busy and not late, and more where
        a flush takes long by itself, as calls then wait for two of them.
        """
        return min(_SMALL_UNITS * (1.0 + 2.0 * self._idle_s / self._target_s), float(MAX_UNITS))

    def refused(self) -> None:
        """Take note that work was kept out because of the limit."""
        self._refused = True

    def flushed(
        self, *, waited_s: float, units: float, took_s: float, alone: bool, now_s: float
    ) -> None:
        """Take note of a flush, and move the limit.

        waited_s: how long its first draft had waited. alone: whether no other ran at its start.
        """
        if self._drained:
            self._drained = False
            self._idle_s += (took_s - self._idle_s) * (_LEARN if self._idle_s else 1.0)
        alone_s = took_s if self._alone_s is None else self._alone_s
        if alone and units <= MIN_UNITS:
            self._alone_s = alone_s + _LEARN * (took_s - alone_s)
        if now_s - self._moved_s < _EVERY_S:
            return
        if waited_s > self._target_s + alone_s:
            if self.limit <= MIN_UNITS:
                self._alone_s = max(alone_s, took_s)
            self.limit = max(float(MIN_UNITS), self.limit * _CUT)
        elif self._refused or self.limit < _FIRST_UNITS:
            self.limit = min(float(MAX_UNITS), self.limit + max(_STEP_UNITS, self.limit * _RISE))
        else:
            return
        self._refused = False
        self._moved_s = now_s

    def drained(self) -> None:
        """Take note that nothing is in work: whatever kept drafts waiting is over."""
        self._drained = True
        self.limit = max(self.limit, float(_FIRST_UNITS))


class Drain:
    """How fast work can be done, and so when to come back.

    How fast work *is* done tells that only while there is more than can be done; otherwise it is
    done as fast as it comes. So of the spans of time that are looked at, those count in which work
    was turned away. The pace is their fading average; it is not known at first, and no more once it
    is `_FORGET_S` old.
    """

    def __init__(self) -> None:
        self._span_s: float | None = None
        self._goes_on = False
        self._done = 0.0
        self._turned_away = 0.0
        self._turned_away_s = 0.0
        self._herd = 0.0
        self._learnt_s = 0.0
        self.units_per_s = 0.0
        """Units a second; 0.0 while it is not known."""

    def done(self, units: float, left_units: float, now_s: float) -> None:
        """Take note of finished work, and of how much is still in work."""
        if self._span_s is None:
            self._span_s = now_s
        else:
            self._done += units
            if now_s - self._span_s >= _SPAN_S:
                self._end_span(now_s)
        if left_units <= 0.0:
            # The time until more comes is nobody's work.
            self._span_s = None
            self._goes_on = False
            self._done = self._turned_away = self._herd = 0.0

    def turned_away(self, units: float, now_s: float) -> None:
        """Take note of work that was told to come back."""
        if not self._turned_away and not self._goes_on:
            # What was done until now was all there was to do.
            self._span_s, self._done = now_s, 0.0
        if now_s - self._learnt_s > _FORGET_S:
            self.units_per_s = 0.0
        self._turned_away += units
        self._turned_away_s = now_s

    def retry_delay_s(self, waiting_units: float) -> float:
        """When what waits, and those who were told to come back before, will have been served."""
        if self.units_per_s <= 0.0:
            return _MIN_RETRY_S * 4
        ahead = waiting_units + self._herd + self._turned_away
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, ahead / self.units_per_s))

    def _end_span(self, now_s: float) -> None:
        self._goes_on = self._turned_away > 0.0
        still = now_s - self._turned_away_s <= _STILL_S
        if self._goes_on and still and self._span_s is not None:
            rate = self._done / (now_s - self._span_s)
            keep = 1.0 - _FADE if self.units_per_s else 0.0
            self.units_per_s = keep * self.units_per_s + (1.0 - keep) * rate
            self._learnt_s = now_s
        self._herd += _FADE * (self._turned_away - self._herd)
        self._done = self._turned_away = 0.0
        self._span_s = now_s
