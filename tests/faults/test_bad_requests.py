"""Every RPC of every service is given requests that nobody should send, over a real socket."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.rpc.channel import sync_channel
from tests.faults.asking import TIMEOUT_S, ask, problem
from tests.faults.bad_requests import requests
from tests.faults.conftest import FULL, Attack
from tests.support.good_requests import SERVICES

COUNT = 400 if FULL else 24


@pytest.mark.parametrize("service", SERVICES)
def test_bad_requests_get_typed_errors(embedded: Attack, rng: random.Random, service: str) -> None:
    address = embedded.cluster.endpoint(service)
    wrong: list[str] = []
    codes: dict[str, Counter[str]] = {}
    with sync_channel(address) as channel:
        for method in SERVICES[service].methods:
            codes[method.name] = Counter()
            for data in requests(method, rng, COUNT):
                asked = ask(channel, method, data)
                codes[method.name][asked.code] += 1
                if says := problem(asked, method):
                    wrong.append(f"{method.name} {data[:200]!r} ({len(data)} bytes): {says}")
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    print(service, {name: dict(found) for name, found in codes.items()})
    assert not wrong, "\n".join(wrong[:20])
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # What is no message is refused by every RPC; what else is, `test_damaged_requests` knows.
    for name, found in codes.items():
        assert found["INVALID_ARGUMENT"] > 0, name


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
