"""What the batcher (`provledger.batching`) queues, and how it answers: groups of items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Group(Generic[T, R]):
    """Items of one submission, that stay together; `future` has a result or an error for each.

    submitted_s: by the batcher's clock, in seconds. urgent: whether they wait for no full batch.
    queued: whether no flush has taken them yet. One that was given up then has no items any more.
    """

    items: Sequence[T]
    size_bytes: int
    future: asyncio.Future[list[R | Exception]]
    submitted_s: float
    urgent: bool
    queued: bool = True


def resolve(groups: list[Group[T, R]], results: Sequence[R | Exception]) -> None:
    """Give each group its part of the results; those given up are passed over."""
    start = 0
    for group in groups:
        end = start + len(group.items)
        if not group.future.done():
            group.future.set_result(cast("list[R | Exception]", list(results[start:end])))
        start = end


def callers_of(groups: Sequence[Group[T, R]]) -> int:
    """How many of them are of somebody who submits one item after the other."""
    return sum(len(group.items) == 1 for group in groups)


def joined(
    groups: Sequence[Group[T, R]], done: Sequence[list[R | Exception] | BaseException]
) -> list[R | Exception]:
    """Outcomes of all groups in order; a group that failed as a whole fails for each item."""
    failures = [result for result in done if isinstance(result, BaseException)]
    if len(failures) == len(done):
        raise failures[0]
    outcomes: list[R | Exception] = []
    for group, result in zip(groups, done, strict=True):
        if isinstance(result, Exception):
            outcomes.extend([result] * len(group.items))
        elif isinstance(result, BaseException):
            raise result
        else:
            outcomes.extend(result)
    return outcomes


def fail(groups: list[Group[T, R]], exc: Exception) -> None:
    """Give an error to each group that was not answered yet."""
    for group in groups:
        if not group.future.done():
            group.future.set_exception(exc)
