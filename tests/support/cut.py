"""A storage of which some calls fail, or wait: a database that goes away between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from anchor_svc.storage import Storage
from provledger.errors import UnavailableError


class CutStorage:
    """Storage in which calls fail by their names, until they are taken from `down`.

    late: they do what they are asked first, and then say that they failed, or wait. failed: the
    names of those that did, in order. slow: those that wait for `go_on`; waiting: those that do.
    """

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.late = False
        self.failed: list[str] = []
        self.slow: set[str] = set()
        self.go_on = asyncio.Event()
        self.waiting: list[str] = []
        self._inner: Any = None

    def wrap(self, storage: Storage) -> Storage:
        """For `running_log(wrap=...)`."""
        self._inner = storage
        return cast(Storage, self)

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = getattr(self._inner, name)
        if not callable(call):
            return call

        async def cut(*arguments: Any, **given: Any) -> Any:
            if name in self.slow:
                result = await call(*arguments, **given) if self.late else None
                self.waiting.append(name)
                await self.go_on.wait()
                if self.late:
                    return result
            if name not in self.down:
                return await call(*arguments, **given)
            if self.late:
                await call(*arguments, **given)
            self.failed.append(name)
            raise UnavailableError("DATABASE_UNAVAILABLE", "the test has cut it off")

        return cut
