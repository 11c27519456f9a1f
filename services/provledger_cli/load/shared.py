"""Single appends as a program of ours sends them: through the Python client, which lets those under
way at once share calls. Nothing is retried, so that what is refused is counted as such.
"""

from __future__ import annotations

from typing import Final

from provledger.client import AsyncClient, Mutation
from provledger.client.calls import CallPolicy
from provledger.names import tenant_of
from provledger.receipt import Receipt
from provledger.retry import NO_RETRY
from provledger.rpc.tls import TLSSettings

MAX_WAIT_S: Final = 0.25
"""`CallPolicy.max_wait_s` of clients that hold back."""


class SharedAppends:
    """One client for each tenant, and one more for each that holds back."""

    def __init__(self, endpoint: str, tls: TLSSettings | None, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._timeout_s = timeout_s
        self._clients: dict[tuple[str, bool], AsyncClient] = {}

    async def append(
        self, ledger: str, request_id: str, resource_id: str, state: bytes, hold_back: bool
    ) -> Receipt:
        """Append one draft; its receipt.

        Raises:
            StatusError: it was refused or failed.
        """
        key = (tenant_of(ledger), hold_back)
        client = self._clients.get(key)
        if client is None:
            policy = CallPolicy(
                timeout_s=self._timeout_s,
                attempt_timeout_s=self._timeout_s,
                retry=NO_RETRY,
                max_wait_s=MAX_WAIT_S if hold_back else 0.0,
            )
            client = AsyncClient(self._endpoint, tls=self._tls, policy=policy)
            self._clients[key] = client
        return await client.append(
            ledger,
            Mutation(
                action="CREATE",
                resource_type="Load",
                resource_id=resource_id,
                actor_id="provledger-load",
                actor_type="service",
                request_id=request_id,
                new_state=state,
            ),
        )

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.close()
