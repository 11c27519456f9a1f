"""Reaching Google Cloud KMS: the key URI, the channel and client behind it, and its errors.

For `provledger.kms.gcp`, which says what is called and why.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import grpc

from provledger import logs
from provledger.errors import KMSError
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyDisabledError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSThrottledError,
    KMSUnavailableError,
    bare,
)
from provledger.kms.remote import load_library, shown

log = logs.get(__name__)

EXTRA: Final = "gcp"
SCHEME: Final = "gcp-kms:"

ENDPOINT_VARIABLE: Final = "PROVLEDGER_GCP_KMS_ENDPOINT"
"""`host:port` of a stand-in for Cloud KMS, for tests: on loopback only, without TLS or sign-in."""

_NAME_RE = re.compile(
    r"(?P<parent>projects/[A-Za-z0-9.:_-]{1,100}/locations/[a-z0-9-]{1,63}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63})"
    r"(?P<version>/cryptoKeyVersions/[1-9][0-9]{0,18})?"
)
_STATE_RE = re.compile(r"current state is:? \"?([A-Z_]+)")

_CHANNEL_OPTIONS: Final = (
    # The default waits up to two minutes before it tries to connect again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Also makes the kernel give up a connection that has gone dead after three seconds, where it
    # would otherwise go on for a quarter of an hour, each call meanwhile ending by its deadline.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # A signature is some hundred bytes.
    ("grpc.max_receive_message_length", 1024 * 1024),
)

# What gRPC says where google-auth could not get an access token, whyever.
_PLUGIN_FAILED: Final = "Getting metadata from plugin failed"

_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
    }
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A key URI, read: the names of the key version and of its key."""

    uri: str
    name: str
    parent: str


def parse(uri: str) -> Reference:
    """Read a key URI; raises KMSConfigError with the remedy."""
    name = uri.removeprefix(SCHEME)
    match = _NAME_RE.fullmatch(name)
    if match is None or not uri.startswith(SCHEME):
        raise KMSConfigError(
            f"key URI {bare(uri)!r}: must look like gcp-kms:projects/<project>/locations/"
            "<location>/keyRings/<ring>/cryptoKeys/<key>/cryptoKeyVersions/<number>"
        )
    if match["version"] is None:
        raise KMSConfigError(
            f"key URI {uri!r}: must end in the exact version, /cryptoKeyVersions/<number>; see: "
            f"gcloud kms keys versions list --key={match['parent']}"
        )
    return Reference(uri, name, match["parent"])


async def connect(uri: str) -> tuple[Any, Any]:
    """Return the module `google.cloud.kms_v1` and a client of it for this event loop; no call yet.

    Raises KMSNotInstalledError, KMSPermissionError without credentials, KMSConfigError.
    """
    # Importing takes a second, and finding credentials may ask a metadata server.
    kms = await asyncio.to_thread(load_library, "google.cloud.kms_v1", uri, EXTRA)
    transport_class = kms.KeyManagementServiceAsyncClient.get_transport_class("grpc_asyncio")
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "")
    if endpoint:
        _check_loopback(endpoint)
        log.warning("kms.gcp_stand_in", endpoint=endpoint, uri=uri)
        channel = grpc.aio.insecure_channel(
            endpoint, options=(*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0))
        )
    else:
        auth = await asyncio.to_thread(load_library, "google.auth", uri, EXTRA)
        try:
            scopes = transport_class.AUTH_SCOPES
            credentials, _ = await asyncio.to_thread(auth.default, scopes=scopes)
        except Exception as error:
            raise KMSPermissionError(
                f"key {uri}: there are no Google credentials ({type(error).__name__}); attach a "
                "service account, or run: gcloud auth application-default login"
            ) from None
        channel = transport_class.create_channel(
            transport_class.DEFAULT_HOST, credentials=credentials, options=_CHANNEL_OPTIONS
        )
    return kms, kms.KeyManagementServiceAsyncClient(transport=transport_class(channel=channel))


def translate(error: Exception, uri: str, method: str) -> KMSError:
    """Return our error for what the client raised in `method` (`AsymmetricSign`, ...)."""
    code = getattr(error, "grpc_status_code", None)
    said = shown(getattr(error, "message", ""))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return KMSThrottledError(
            f"key {uri}: Cloud KMS throttles {method}", retry_delay_s=_retry_delay_s(error)
        )
    if code is grpc.StatusCode.NOT_FOUND:
        return KMSKeyNotFoundError(
            f"key {uri}: Cloud KMS does not know it ({said}); compare project, location, key ring, "
            "key and version"
        )
    if code is grpc.StatusCode.PERMISSION_DENIED:
        remedy = (
            "grant roles/cloudkms.signer and roles/cloudkms.publicKeyViewer on the key to the "
            "service's account, or put one that may into the credentials file, which is read again "
            "within a minute"
        )
        if method in ("UpdateCryptoKey", "CreateCryptoKeyVersion", "ListCryptoKeyVersions"):
            remedy = f"whoever rotates needs cloudkms.* for it ({method}): roles/cloudkms.admin"
        return KMSPermissionError(
            f"key {uri}: we are not allowed to call {method}, or it is not there ({said}); {remedy}"
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return KMSPermissionError(
            f"key {uri}: Google does not accept our credentials; renew them (their file is read "
            "again by itself), and check this machine's clock"
        )
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return _unusable(uri, said)
    if code is grpc.StatusCode.INVALID_ARGUMENT and re.search("crc32c|checksum", said, re.I):
        return KMSIntegrityError(f"key {uri}: our request arrived damaged at Cloud KMS ({said})")
    if _PLUGIN_FAILED in said:
        return KMSUnavailableError(
            f"key {uri}: there is no access token to call {method} with ({said}); if that does not "
            "pass, renew our Google credentials, whose file is read again by itself"
        )
    if code in _AWAY or code is None:
        # No code: no gRPC answer, such as credentials that cannot be refreshed just now.
        what = type(error).__name__ if code is None else code.name
        return KMSUnavailableError(f"key {uri}: {method} got no usable answer ({what})")
    return KMSConfigError(
        f"key {uri}: Cloud KMS refuses {method} ({code.name}: {said}); check the location, and "
        "that the key's purpose is ASYMMETRIC_SIGN"
    )


def refuses_credentials(error: Exception) -> bool:
    """Say whether the client raised this since our credentials are not accepted.

    By Cloud KMS, or where they are exchanged for an access token, which gRPC calls UNAVAILABLE as
    it does a server that is away.
    """
    if getattr(error, "grpc_status_code", None) is grpc.StatusCode.UNAUTHENTICATED:
        return True
    return _PLUGIN_FAILED in str(getattr(error, "message", ""))


def is_denied(error: Exception) -> bool:
    """Say whether the client raised this since whoever our credentials stand for may not do it."""
    return getattr(error, "grpc_status_code", None) is grpc.StatusCode.PERMISSION_DENIED


def _unusable(uri: str, said: str) -> KMSError:
    """Return the error for a key version that is not enabled, with the way back if there is one."""
    name = uri.removeprefix(SCHEME)
    match = _STATE_RE.search(said)
    state = match[1].lower() if match else ""
    if state in ("pending_generation", "pending_import"):
        return KMSUnavailableError(f"key {uri}: is not ready yet ({said})")
    if state == "destroyed":
        remedy = "its material is gone for good: rotate to another key"
    elif state == "destroy_scheduled":
        remedy = f"to keep it run: gcloud kms keys versions restore {name}, then enable it"
    else:
        remedy = f"to use it again run: gcloud kms keys versions enable {name}"
    return KMSKeyDisabledError(f"key {uri}: Cloud KMS does not sign with it ({said}); {remedy}")


def _retry_delay_s(error: Exception) -> float:
    """The server's advice (google.rpc.RetryInfo) in seconds, 0 without one."""
    for detail in getattr(error, "details", None) or ():
        delay = getattr(detail, "retry_delay", None)
        if delay is not None:
            return max(0.0, float(delay.seconds + delay.nanos / 1e9))
    return 0.0


def _check_loopback(endpoint: str) -> None:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise KMSConfigError(
            f"{ENDPOINT_VARIABLE}={shown(endpoint)}: is for tests and has no encryption, so it "
            "must be host:port on loopback; unset it to use Cloud KMS"
        )
