"""A proxy to S3 may need a password; what cannot be asked through it does not tell it."""

from __future__ import annotations

import pytest

from anchor_svc.sinks import SinkError
from anchor_svc.sinks.s3 import S3Sink
from provledger.outside import ObjectLock
from provledger_cli.failures import CommandError
from provledger_cli.verifying.trust import ask_s3

pytest.importorskip("boto3")


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    # boto3 takes it for the name of a host, and leaves what is in it as it is.
    for name, value in {
        "HTTPS_PROXY": "socks5://user:s3cret@127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("https_proxy", "NO_PROXY", "no_proxy", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


async def test_a_sink_names_what_happened_and_not_the_proxy() -> None:
    sink = S3Sink.from_uri("s3://bucket/a?mode=COMPLIANCE")
    with pytest.raises(SinkError) as caught:
        await sink.checkpoint_of("log.test/a")
    await sink.close()
    assert str(caught.value) == "s3: ProxyConnectionError"


def test_verify_names_what_happened_and_not_the_proxy() -> None:
    lock = ObjectLock("bucket", "copy", "v", "COMPLIANCE", 1, False, "00" * 32, 7)
    with pytest.raises(CommandError) as caught:
        ask_s3()(lock, b"")
    assert str(caught.value) == "the store cannot be asked: ProxyConnectionError"
