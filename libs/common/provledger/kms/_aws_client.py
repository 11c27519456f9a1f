"""Reaching AWS KMS: the key URI, the boto3 client behind it, and the endpoint it may talk to.

For `provledger.kms.aws`, which says what is called and why.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from provledger.boto_bounds import Bounds, bind
from provledger.kms._aws_errors import is_denied, refuses_credentials, translate
from provledger.kms._renewing import DENIED_S, RENEW_S, Renewable
from provledger.kms.errors import KMSConfigError, KMSUnavailableError, bare
from provledger.kms.remote import MAX_IN_FLIGHT, load_library

EXTRA: Final = "aws"
_MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Of a public key or a signature: some kilobytes."""

_ARN_RE = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z]{2}[a-z0-9-]*-[0-9]+):(?P<account>[0-9]{12})"
    r":key/(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
)
# kms.<region>.amazonaws.com, kms-fips.<region>..., and VPC endpoints, vpce-....kms.<region>....
_HOST_RE = re.compile(r"(?:^|\.)kms(?P<fips>-fips)?\.(?P<region>[a-z]{2}[a-z0-9-]*-[0-9]+)\.")


@dataclass(frozen=True, slots=True)
class Reference:
    """A key URI, read."""

    uri: str
    arn: str
    partition: str
    region: str
    account: str
    fips: bool


class Client:
    """A boto3 client, which blocks, and the few threads it may block.

    The client is another one once its credentials are refused, or denied something:
    `provledger.kms._renewing`.
    """

    def __init__(self, reference: Reference, boto: Renewable[Any]) -> None:
        self.reference = reference
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="aws-kms")
        self._boto = boto

    @classmethod
    async def connect(
        cls,
        reference: Reference,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> Client:
        """Make a client for the region of the key; makes no call yet.

        `timeout_s` bounds connecting, and each wait for bytes of an answer; twice as much, all of
        a request.
        """
        # Not in the client's own threads: calls that hang may have them all.
        connect = partial(asyncio.to_thread, _connect, reference, timeout_s)
        boto = Renewable(reference.uri, await connect(), connect, _drop, clock=clock)
        return cls(reference, boto)

    async def call(self, operation: str, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Call once; raises a subclass of KMSError. Giving up the wait lets the thread run out."""
        boto = self._boto.client
        try:
            try:
                return await self._run(boto, method, parameters)
            except Exception as error:
                if not await self._has_others(boto, error):
                    raise
                return await self._run(self._boto.client, method, parameters)
        except Exception as error:
            if isinstance(error, RuntimeError) and "shutdown" in str(error):
                raise KMSUnavailableError(f"key {self.reference.uri}: has been closed") from None
            raise translate(error, self.reference.uri, operation) from None

    async def _has_others(self, boto: Any, error: Exception) -> bool:
        if refuses_credentials(error):
            return await self._boto.renewed(boto, RENEW_S)
        return is_denied(error) and await self._boto.renewed(boto, DENIED_S)

    async def close(self) -> None:
        """Drop connections; calls on their way end by their own timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._boto.close().close()

    async def _run(
        self, boto: Any, method: str, parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        function = partial(getattr(boto, method), **parameters)
        answer: Mapping[str, Any] = await loop.run_in_executor(self._threads, function)
        return answer


def parse(uri: str) -> Reference:
    """Read a key URI; raises KMSConfigError with the remedy."""
    text, question, query = uri.removeprefix("aws-kms:").partition("?")
    if not uri.startswith("aws-kms:") or (question and query != "fips=1"):
        raise KMSConfigError(
            f"key URI {bare(uri)!r}: must look like aws-kms:<key ARN>, with nothing but ?fips=1 "
            "after it"
        )
    match = _ARN_RE.fullmatch(text)
    if match is None:
        if "alias/" in text:
            raise KMSConfigError(
                f"key URI {bare(uri)!r}: an alias can be pointed at another key; give the ARN of "
                "the key itself, from: "
                "aws kms describe-key --key-id <alias> --query KeyMetadata.Arn"
            )
        raise KMSConfigError(
            f"key URI {bare(uri)!r}: must name the key by its whole ARN, like aws-kms:arn:aws:kms:"
            "eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        )
    return Reference(uri, text, match["partition"], match["region"], match["account"], bool(query))


def _connect(reference: Reference, timeout_s: float) -> Any:
    """Return a boto3 client for the region of the key, with retries off and an endpoint checked."""
    boto3 = load_library("boto3", reference.uri, EXTRA)
    config = load_library("botocore.config", reference.uri, EXTRA).Config(
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        # One request for each call: `standard` waits for seconds, `adaptive` gives up most of the
        # rate. Given here, it overrides AWS_MAX_ATTEMPTS and AWS_RETRY_MODE.
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=MAX_IN_FLIGHT,
        tcp_keepalive=True,
        use_fips_endpoint=True if reference.fips else None,
        user_agent_extra="provledger",
    )
    try:
        session = boto3.session.Session()
        client = session.client("kms", region_name=reference.region, config=config)
        bind(client, Bounds(2 * timeout_s, _MAX_ANSWER_BYTES))
        _check_partition(reference, session)
    except KMSConfigError:
        raise
    except Exception as error:
        raise translate(error, reference.uri, "connect") from None
    _check_endpoint(reference, client.meta.endpoint_url, client.meta.config.use_fips_endpoint)
    return client


async def _drop(boto: Any) -> None:
    """Close idle connections of a client; those of calls on their way close after them."""
    boto.close()


def _check_partition(reference: Reference, session: Any) -> None:
    try:
        partition = session.get_partition_for_region(reference.region)
    except Exception:  # a region newer than this boto3: the call itself will tell
        return
    if partition != reference.partition:
        raise KMSConfigError(
            f"key {reference.uri}: region {reference.region} belongs to the partition {partition}, "
            f"not {reference.partition}; correct the ARN"
        )


def _check_endpoint(reference: Reference, endpoint: str, fips: bool | None) -> None:
    """Refuse an endpoint of another region, one that is not FIPS where that was asked, or HTTP."""
    url = urlsplit(endpoint)
    host = url.hostname or ""
    match = _HOST_RE.search(host)
    where = f"key {reference.uri}: the endpoint {url.scheme}://{host}"
    remedy = "correct or unset AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL and endpoint_url"
    if match is not None and match["region"] != reference.region:
        raise KMSConfigError(f"{where} is not in the key's region {reference.region}; {remedy}")
    if fips and (match is None or match["fips"] is None):
        raise KMSConfigError(f"{where} is no FIPS endpoint, but one was asked for; {remedy}")
    if url.scheme != "https" and not _is_loopback(host):
        raise KMSConfigError(f"{where} is not encrypted; {remedy}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_known_region(reference: Reference) -> bool:
    """Say whether boto3 knows the region of the key; reads files."""
    session = load_library("boto3", reference.uri, EXTRA).session.Session()
    regions: list[str] = session.get_available_regions("kms", reference.partition)
    return reference.region in regions
