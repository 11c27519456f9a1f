"""Callers that go through RPCs in turn while something else is attacked: `tests.faults.rpcs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from provledger.errors import StatusError
from tests.faults import rpc_calls
from tests.faults.between import new_witness_key
from tests.faults.cluster import Cluster, eventually
from tests.faults.proxy import Proxy
from tests.faults.rpcs import CALLS, Call, Caller
from tests.faults.worker import Worker
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
    rpc_calls.append_many,
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
        self._worker = Worker("errands", self._main)
        self.rounds = 0

    def __enter__(self) -> Errands:
        """Begin. What the calls are about is there when this returns, before anybody attacks."""
        self._worker.start()
        self._worker.wait_ready()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End with the round under way; raises what went wrong."""
        self._worker.stop()
        self._worker.join(120.0, "a call is not answered after the fault is over")
        if kind is None:
            self._worker.check()
        else:
            self._worker.tell()

    def wait_for(self, rounds: int, or_until: Callable[[], bool] = lambda: False) -> None:
        """Wait until that many more rounds were made, or something else holds."""
        target = self.rounds + rounds
        eventually(
            lambda: self.rounds >= target or or_until() or not self._worker.running,
            "a round",
            120.0,
        )
        self._worker.check()
        assert self._worker.running, "the errands ended"

    # --- in the thread

    async def _main(self) -> None:
        services = ("ledger", "anchor", "keys")
        proxies = {
            name: Proxy(port, self._cluster.endpoint(name)).start()
            for name, port in zip(services, free_ports(len(services)), strict=True)
        }
        try:
            async with Caller(self._cluster, proxies, self._tag) as caller:
                await rpc_calls.prepare(caller)
                self._worker.ready()
                while not self._worker.stopping:
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
