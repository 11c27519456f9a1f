"""The RPCs of `provledger.api.witness.v1.WitnessService`: convert, witness, convert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from provledger.api.witness.v1 import witness_pb2 as pb
from provledger.api.witness.v1 import witness_pb2_grpc
from provledger.errors import UnimplementedError
from provledger.keyring import KeyRing
from provledger.rpc.key_events import endorsement_to_pb, event_from_pb
from witness_svc import convert
from witness_svc.witness import Witness


class WitnessServicer(witness_pb2_grpc.WitnessServiceServicer):
    """Answers through `witness`; `clock` gives Unix nanoseconds."""

    def __init__(
        self,
        witness: Witness,
        *,
        clock: Callable[[], int],
        max_items: int,
        ring: KeyRing | None = None,
    ) -> None:
        self._witness = witness
        self._ring = ring
        self._clock = clock
        self._max_items = max_items

    async def WitnessBatch(
        self, request: pb.WitnessBatchRequest, context: Any
    ) -> pb.WitnessBatchResponse:
        """Check each draft, and sign the statements of those that pass."""
        place = convert.place_from_pb(request, self._clock(), max_items=self._max_items)
        items = convert.items_from_pb(request)
        answer = await self._witness.witness(
            place, items, len(request.items), system=request.system
        )
        return convert.answer_to_pb(answer)

    async def SignKeyEvent(
        self, request: pb.SignKeyEventRequest, context: Any
    ) -> pb.SignKeyEventResponse:
        """Endorse a key event, whose bytes are built here from its members."""
        if self._ring is None:
            raise UnimplementedError("NO_KEY_RING", "this service holds no key ring")
        endorsement = await self._ring.endorse(event_from_pb(request.event), request.kid)
        return pb.SignKeyEventResponse(endorsement=endorsement_to_pb(endorsement))
