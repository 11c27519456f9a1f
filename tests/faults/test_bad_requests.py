"""Every RPC of every service is given requests that nobody should send, over a real socket."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.rpc.channel import sync_channel
from tests.faults.bad_requests import requests
from tests.faults.conftest import FULL, Attack

SERVICES: dict[str, Any] = {
    "ledger": ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    "anchor": anchor_pb2.DESCRIPTOR.services_by_name["AnchorService"],
    "keys": keys_pb2.DESCRIPTOR.services_by_name["KeysService"],
    "witness": witness_pb2.DESCRIPTOR.services_by_name["WitnessService"],
}
COUNT = 400 if FULL else 24
TIMEOUT_S = 10.0

NEVER = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS})
_DETAILS = "grpc-status-details-bin"


@pytest.mark.parametrize("service", SERVICES)
def test_bad_requests_get_typed_errors(embedded: Attack, rng: random.Random, service: str) -> None:
    address = embedded.cluster.endpoint(service)
    wrong: list[str] = []
    codes: Counter[str] = Counter()
    with sync_channel(address) as channel:
        for method in SERVICES[service].methods:
            for data in requests(method, rng, COUNT):
                error = _send(channel, method, data)
                codes[error.code().name if error is not None else "OK"] += 1
                if error is not None and (problem := _problem(error, method)):
                    wrong.append(f"{method.name} {data[:200]!r} ({len(data)} bytes): {problem}")
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    print(service, dict(codes))
    assert not wrong, "\n".join(wrong[:20])
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert codes["INVALID_ARGUMENT"] > COUNT / 2


def test_services_are_whole_afterwards(embedded: Attack) -> None:
    """Beside a log that one of the requests made, which they do by chance, and this one surely."""
    right = anchor_pb2.CreateLogRequest(tenant="tenants/chance", suite=common_pb2.SUITE_BLAKE3)
    with sync_channel(embedded.cluster.endpoint("anchor")) as channel:
        anchor_pb2_grpc.AnchorServiceStub(channel).CreateLog(right, timeout=TIMEOUT_S)
    with embedded.workload() as work:
        work.wait_for(50)
    for name, service in embedded.cluster.services.items():
        assert service.running, f"{name} ended"
    print(embedded.check())


def _send(channel: Any, method: Any, data: bytes) -> Any:
    """Call a method with bytes that may be no message; the error it gives."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)
            list(call(iter([data, data]), timeout=TIMEOUT_S))
        elif method.server_streaming:
            # A watch that began is right; it has no end of its own.
            watch = channel.unary_stream(path)(data, timeout=1.0)
            next(watch)
            watch.cancel()
        else:
            channel.unary_unary(path)(data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return error
    return None


def _problem(error: Any, method: Any) -> str:
    """What is wrong with an error, or "": it must be typed, and its details say what it is."""
    code, text = error.code(), error.details() or ""
    if code in NEVER:
        return f"{code.name}: {text}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and method.server_streaming:
        return ""
    packed = [value for key, value in error.trailing_metadata() or () if key == _DETAILS]
    if not packed:
        return f"{code.name} without details: {text}"
    status = status_pb2.Status.FromString(packed[0])
    kind: Any = error_details_pb2.ErrorInfo.DESCRIPTOR
    infos = [each for each in status.details if each.Is(kind)]
    if not infos or status.code != code.value[0] or status.message != text:
        return f"{code.name} whose details are others: {status}"
    return ""
