"""A thread with an event loop of its own, beside the test that attacks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_READY_S = 120.0


class Worker:
    """Runs one coroutine function, and keeps what it raised for whoever asks."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`main` ends soon after `stopping` is set."""
        self._main = main
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failure: BaseException | None = None

    @property
    def stopping(self) -> bool:
        """Whether it shall end."""
        return self._stop.is_set()

    @property
    def running(self) -> bool:
        """Whether it has not ended, by itself or as it was told."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ready(self) -> None:
        """Said by the coroutine: what it needs is there, and attacks may begin."""
        self._ready.set()

    def wait_ready(self) -> None:
        """Wait until the coroutine says so. Raises what it ended by before."""
        assert self._ready.wait(_READY_S), f"{self._thread.name} does not come to its work"
        self.check()

    def stop(self) -> None:
        """Tell it to end."""
        self._stop.set()

    def join(self, timeout_s: float, otherwise: str) -> None:
        """Wait until it has ended; `otherwise` is what its going on means."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), otherwise

    def check(self) -> None:
        """Raises what it ended by."""
        if self._failure is not None:
            raise self._failure

    def tell(self) -> None:
        """Print what it ended by, beside a test that failed in its own way: it may be why."""
        if self._failure is not None:
            print(f"{self._thread.name} had ended: {self._failure!r}")

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
