"""The gRPC proxy does to calls what it says it does, and counts what has happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.faults.cluster import eventually
from tests.faults.proxy import ENDLESS, Fault, Proxy
from tests.support.ports import free_ports

METHOD = "Append"
WATCH = sorted(ENDLESS)[0]
PATH = f"/some.Service/{METHOD}"
LONG_S = 60.0


@dataclass
class Service:
    """Remembers what it was asked, in order; refuses what is `refused`."""

    asked: list[bytes] = field(default_factory=list)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        if request == b"refused":
            context.abort(grpc.StatusCode.UNAVAILABLE, "by the service itself")
        return request

    def watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A first message, and nothing more for as long as somebody listens."""
        yield request
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(LONG_S)


@dataclass
class Way:
    """A service, the proxy in front of it, and a client's way through that."""

    service: Service
    proxy: Proxy
    channel: Any

    def ask(self, request: bytes) -> Any:
        """A call under way."""
        return self.channel.unary_unary(PATH).future(request, timeout=LONG_S, wait_for_ready=True)

    def code(self, request: bytes) -> grpc.StatusCode:
        """What came of a call."""
        code: grpc.StatusCode = self.ask(request).code()
        return code

    def give_up_a_late_one(self) -> None:
        """Make a call that is going to be late, and wait no more for its answer."""
        self.proxy.inject(METHOD, "late")
        call = self.ask(b"first")
        eventually(lambda: self.proxy.on_the_way == 1, "it is held", LONG_S)
        call.cancel()


@pytest.fixture
def way() -> Iterator[Way]:
    service = Service()
    handler: Any = grpc.unary_unary_rpc_method_handler(service.answer)
    watch: Any = grpc.unary_stream_rpc_method_handler(service.watch)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("some.Service", {METHOD: handler, WATCH: watch})]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        proxy = Proxy(free_ports(1)[0], f"127.0.0.1:{port}").start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
                yield Way(service, proxy, channel)
        finally:
            proxy.close()
            server.stop(None).wait(LONG_S)


def test_a_late_call_comes_behind_one_that_was_made_after_it(way: Way) -> None:
    way.give_up_a_late_one()
    assert (way.service.asked, way.proxy.pending(METHOD)) == ([], 1)
    # The proxy hears that it was given up a moment after that.
    made = 0
    while way.proxy.pending(METHOD):
        assert way.code(b"again") is grpc.StatusCode.OK
        made += 1
    assert way.service.asked[0] == b"again"
    assert sorted(way.service.asked) == [b"again"] * made + [b"first"]
    assert way.proxy.injected == {(METHOD, "late"): 1}


@pytest.mark.parametrize("fault", ["lose", "stall"])
def test_an_answer_is_lost_only_if_there_was_one(way: Way, fault: Fault) -> None:
    way.proxy.inject(METHOD, fault)
    assert way.code(b"refused") is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: way.proxy.pending(METHOD) == 1, "it waits for another one", LONG_S)
    assert not way.proxy.injected
    call = way.ask(b"done")
    eventually(lambda: not way.proxy.pending(METHOD), "it happens", LONG_S)
    if fault == "lose":
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.cancel() is (fault == "stall")
    assert way.service.asked == [b"refused", b"done"]
    assert way.proxy.injected == {(METHOD, fault): 1}


def test_what_would_be_late_never_comes_when_all_is_calm(way: Way) -> None:
    way.give_up_a_late_one()
    way.proxy.calm()
    eventually(lambda: not way.proxy.on_the_way, "it is forgotten", LONG_S)
    assert way.code(b"again") is grpc.StatusCode.OK
    assert way.service.asked == [b"again"]
    assert not way.proxy.injected


def test_who_watches_meets_a_slow_answer_with_the_first_message(way: Way) -> None:
    way.proxy.inject(WATCH, "slow")
    watching = way.channel.unary_stream(f"/some.Service/{WATCH}")(b"shown", timeout=LONG_S)
    assert next(watching) == b"shown"
    assert not way.proxy.pending(WATCH)
    watching.cancel()
    assert way.proxy.injected == {(WATCH, "slow"): 1}
