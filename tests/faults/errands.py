"""Callers that go through RPCs in turn while something else is attacked: `tests.faults.rpcs`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from provledger.errors import StatusError
from tests.faults import rpc_calls
from tests.faults.between import new_witness_key
from tests.faults.cluster import Cluster, eventually
from tests.faults.proxy import Proxy
from tests.faults.rpcs import CALLS, Call, Caller
from tests.support.ports import free_ports

ALL: Sequence[Call] = (
    *(
        CALLS["ledger", method]
        for method in ("CreateLedger", "ListLedgers", "GetReceipt", "ListReceipts", "VerifyRange")
    ),
    *(
        CALLS["anchor", method]
        for method in ("SetPolicy", "GetPolicy", "CreateLog", "ListAnchors", "GetInclusionProof")
    ),
    new_witness_key,
)
"""What makes services read and write what appends alone do not touch."""


class Errands:
    """Makes the calls of `ALL` in turn in a thread, within a `with`; fails if one of them does."""

    def __init__(
        self,
        cluster: Cluster,
        tag: str,
        excused: Callable[[StatusError], bool] = lambda error: False,
    ) -> None:
        """`tag` is part of each name; `excused` says which refusals the fault may cause."""
        self._excused = excused
        self._cluster = cluster
        self._tag = tag
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="errands", daemon=True)
        self.rounds = 0

    def __enter__(self) -> Errands:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End with the round under way; raises what went wrong."""
        self._stop.set()
        self._thread.join(120.0)
        assert not self._thread.is_alive(), "a call is not answered after the fault is over"
        if kind is None and self._failure is not None:
            raise self._failure

    def wait_for(self, rounds: int, or_until: Callable[[], bool] = lambda: False) -> None:
        """Wait until that many more rounds were made, or something else holds."""
        target = self.rounds + rounds
        eventually(
            lambda: self.rounds >= target or or_until() or not self._thread.is_alive(),
            "a round",
            120.0,
        )
        assert self._thread.is_alive(), f"the errands ended: {self._failure!r}"

    # --- in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error

    async def _main(self) -> None:
        services = ("ledger", "anchor", "keys")
        proxies = {
            name: Proxy(port, self._cluster.endpoint(name)).start()
            for name, port in zip(services, free_ports(len(services)), strict=True)
        }
        try:
            async with Caller(self._cluster, proxies, self._tag) as caller:
                await rpc_calls.prepare(caller)
                while not self._stop.is_set():
                    for call in ALL:
                        try:
                            await call(caller)
                        except StatusError as error:
                            if not self._excused(error):
                                raise
                    self.rounds += 1
        finally:
            for proxy in proxies.values():
                proxy.close()
