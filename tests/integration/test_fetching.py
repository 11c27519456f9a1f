"""Files are fetched, and alarms sent, whatever the server at the other end does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provledger.retry import NO_RETRY, RetryPolicy
from provledger_cli.tlog.fetching import Fetcher, FetchError
from tests.support.certs import CertificateAuthority
from tests.support.dawdling import (
    WITHOUT_END,
    Behave,
    body,
    nothing,
    serving,
    size_of_a_piece,
    trailers,
)
from tests.support.tiled import write_log
from tests.support.webroot import WebRoot, webroot

QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.002, budget_s=1.0)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebRoot]:
    root = tmp_path / "log"
    write_log(root, "log.example/one", [b"entry %d" % index for index in range(290)])
    with webroot(root) as server:
        yield server


def test_one_connection_is_used_again(web: WebRoot) -> None:
    fetcher = Fetcher(web.url, retry=RetryPolicy(attempts=1))
    for path, found in [("tile/0/000", True), ("none", False), ("tile/entries/000", True)] * 3:
        assert (fetcher.get(path, 1 << 20) is not None) is found
    assert web.connections == 1


def test_a_tile_may_be_somewhere_else_but_not_anywhere(web: WebRoot) -> None:
    (web.root / "moved").write_bytes((web.root / "tile/0/000").read_bytes())
    web.locations = {"/tile/0/000": f"{web.url}/moved?signed=1", "/checkpoint": f"{web.url}/moved"}
    fetcher = Fetcher(web.url, retry=QUICK)
    assert fetcher.get("tile/0/000", 8192) == (web.root / "moved").read_bytes()
    with pytest.raises(FetchError, match="longer"):
        fetcher.get("tile/0/000", 8191)
    with pytest.raises(FetchError, match="status 307"):
        fetcher.get("checkpoint", 1 << 20)
    for bad in ("http://log.example/x", "ftp://127.0.0.1/x", "http://[", "file:///etc"):
        web.locations = {"/tile/0/000": bad}
        with pytest.raises(FetchError, match="redirects"):
            fetcher.get("tile/0/000", 8192)
    for bad in ("https://a..b/x", f"{web.url}/t\u00e4", f"https://{'a' * 64}/x"):
        web.locations = {"/tile/0/000": bad}
        with pytest.raises(FetchError, match="cannot be asked for"):
            fetcher.get("tile/0/000", 8192)
    # One is followed, and no more.
    web.locations = {"/tile/0/000": f"{web.url}/tile/0/001", "/tile/0/001": f"{web.url}/moved"}
    with pytest.raises(FetchError, match="status 307"):
        fetcher.get("tile/0/000", 8192)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://x/", "http:///x", "https://u:secret@x/", "http://x/?q=secret", "http://x/#secret"),
        *("http://x:99999/", "http://[secret", "https://a..b/", "https://x/\u00e4", "http://x/a b"),
    ],
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(FetchError) as caught:
        Fetcher(url)
    assert "secret" not in str(caught.value)


def test_a_private_ca_is_taken_by_the_variable_that_its_refusal_names(
    web: WebRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = CertificateAuthority(tmp_path).issue("log", ips=("127.0.0.1",))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with webroot(web.root, named) as server:
        fetcher = Fetcher(server.url, retry=NO_RETRY)
        for ask in (lambda: fetcher.get("tile/0/000", 8192), lambda: fetcher.post(b"{}")):
            with pytest.raises(FetchError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
                ask()
        monkeypatch.setenv("SSL_CERT_FILE", str(named.ca))
        assert Fetcher(server.url, retry=NO_RETRY).get("tile/0/000", 8192)
        # Of another name than the one asked for it is not: no CA would mend that.
        elsewhere = Fetcher(server.url.replace("127.0.0.1", "localhost"), retry=NO_RETRY)
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            elsewhere.get("tile/0/000", 8192)
        assert "SSL_CERT_FILE" not in str(caught.value)


def test_an_alarm_that_is_not_delivered_tells_no_secret_of_its_url(web: WebRoot) -> None:
    web.close()
    with pytest.raises(FetchError) as caught:
        Fetcher(f"{web.url}/secret", retry=NO_RETRY).post(b"{}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("how", WITHOUT_END)
def test_an_answer_without_end_is_given_up_and_the_next_is_heard(how: Behave) -> None:
    with serving(how) as (port, left):
        fetcher = Fetcher(f"http://127.0.0.1:{port}", timeout_s=0.3, retry=NO_RETRY)
        assert _failed(lambda: fetcher.get("checkpoint", 1 << 20))
        assert how is nothing or left.wait(10)
        if how is not nothing:
            assert fetcher.get("checkpoint", 1 << 20) == b"ok"


@pytest.mark.parametrize("how", WITHOUT_END)
def test_an_alarm_to_a_server_without_end_is_given_up(how: Behave) -> None:
    with serving(how) as (port, _):
        fetcher = Fetcher(f"http://127.0.0.1:{port}/hook", timeout_s=0.3, retry=NO_RETRY)
        # A status is all that is asked for: with a good one it was delivered, whatever follows.
        delivered = how in (body, size_of_a_piece, trailers)
        assert _failed(lambda: fetcher.post(b"{}")) is not delivered


def _failed(ask: Callable[[], object]) -> bool:
    """Whether a FetchError came, and not an answer; the time for either is this thread's."""
    came: list[bool] = []

    def run() -> None:
        try:
            ask()
        except FetchError:
            came.append(True)
        else:
            came.append(False)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert came, "it waits for ever"
    return came[0]
