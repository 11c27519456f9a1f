"""Google Cloud KMS as its clients see it: a gRPC server with the client package's own messages.

Written from the API reference, so that the real google-cloud-kms runs against it, with the edges
that matter here: CRC32C both ways, `verified_*` flags, states of key versions, a change of state
that takes its time to act, RESOURCE_EXHAUSTED with RetryInfo, answers lost after the work was done
(the connection is cut, by a relay in front of the server) and servers that never answer.

    with FakeGCPKMS() as kms:
        name = kms.add_key("EC_SIGN_ED25519")
        ...                                     # PROVLEDGER_GCP_KMS_ENDPOINT=kms.endpoint
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from provledger.kms.gcp import crc32c
from tests.support.relay import Relay
from tests.support.token_bucket import TokenBucket

kms_v1: Any = importlib.import_module("google.cloud.kms_v1")  # its enums mislead the type checker

SERVICE = "google.cloud.kms.v1.KeyManagementService"
PARENT = "projects/acme/locations/europe-west3/keyRings/provledger"
LOCATIONS = ("europe-west3", "global")

State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose


HASHED: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "EC_SIGN_P256_SHA256": ("sha256", hashes.SHA256()),
    "EC_SIGN_P384_SHA384": ("sha384", hashes.SHA384()),
}


_LABEL = re.compile(r"[a-z0-9_-]{0,63}")


@dataclass
class Version:
    """One key version."""

    name: str
    algorithm: str
    private: Any
    state: str = "ENABLED"
    protection: str = "HSM"
    signs_on: int = 0
    """So many signatures are still made after it was disabled: not all servers know at once."""
    pending_answers: int = 0
    """It is enabled after so many further answers."""


class _AbortError(Exception):
    """What to answer instead: a gRPC status."""

    def __init__(self, code: int, message: str, details: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


def _generate(algorithm: str) -> Any:
    if algorithm == "EC_SIGN_ED25519":
        return Ed25519PrivateKey.generate()
    if algorithm == "EC_SIGN_P256_SHA256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EC_SIGN_P384_SHA384":
        return ec.generate_private_key(ec.SECP384R1())
    if algorithm.startswith("PQ_SIGN_ML_DSA_"):
        kinds: dict[str, Any] = {"44": mldsa.MLDSA44PrivateKey, "65": mldsa.MLDSA65PrivateKey}
        return kinds[algorithm[-2:]].generate()
    if algorithm.startswith("RSA_SIGN"):
        return rsa.generate_private_key(65537, 2048)
    return None


@dataclass
class FakeGCPKMS:
    """Cloud KMS of one project, with switches for a test to turn."""

    latency_s: float = 0.0
    denied: set[str] = field(default_factory=set)
    unauthenticated: bool = False
    """Whether it refuses everybody's credentials, as it does those dated wrongly."""
    limit: TokenBucket | None = None
    page_size: int = 1000
    advice_s: float = 0.0
    """RetryInfo of RESOURCE_EXHAUSTED; none if 0."""
    calls: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of AsymmetricSign: `ok`, also where the answer was lost, or the name of a code."""
    signed: list[Any] = field(default_factory=list)
    tamper: Callable[[Any], None] | None = None
    """Changes every answer of AsymmetricSign before it goes out."""
    tamper_public_key: Callable[[Any], None] | None = None
    """Changes every answer of GetPublicKey before it goes out."""
    tamper_request: Callable[[Any], None] | None = None
    """Changes every request of AsymmetricSign before it is read."""

    def __post_init__(self) -> None:
        self.versions: dict[str, Version] = {}
        self.labels: dict[str, dict[str, str]] = {}
        """Of keys, by name; versions have none."""
        self._faults: deque[tuple[str, int]] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([self._handlers()])
        self._relay = Relay(self._server.add_insecure_port("127.0.0.1:0"))
        self.endpoint = f"127.0.0.1:{self._relay.port}"

    def __enter__(self) -> Self:
        self._server.start()
        self._relay.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._relay.close()
        self._server.stop(0).wait()

    def add_key(self, algorithm: str, state: str = "ENABLED", key: str = "witness") -> str:
        """Make a key version and return its name."""
        number = 1 + sum(f"/{key}/" in name for name in self.versions)
        name = f"{PARENT}/cryptoKeys/{key}/cryptoKeyVersions/{number}"
        self.versions[name] = Version(name, algorithm, _generate(algorithm), state)
        return name

    def fail_next(self, kind: str, times: int = 1) -> None:
        """Make the next calls of AsymmetricSign or CreateCryptoKeyVersion fail.

        kind: `lost` (done, but the connection is cut), `hang` (no answer), or the name of a code.
        """
        with self._lock:
            self._faults.extend((kind, index) for index in range(times))

    def clear_faults(self) -> None:
        """Forget the failures still to come."""
        with self._lock:
            self._faults.clear()

    # --- plumbing ---

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods = {
            "GetPublicKey": (self._get_public_key, kms_v1.GetPublicKeyRequest, kms_v1.PublicKey),
            "AsymmetricSign": (
                self._asymmetric_sign,
                kms_v1.AsymmetricSignRequest,
                kms_v1.AsymmetricSignResponse,
            ),
            "GetCryptoKey": (self._get_crypto_key, kms_v1.GetCryptoKeyRequest, kms_v1.CryptoKey),
            "UpdateCryptoKey": (self._update, kms_v1.UpdateCryptoKeyRequest, kms_v1.CryptoKey),
            "CreateCryptoKeyVersion": (
                self._create,
                kms_v1.CreateCryptoKeyVersionRequest,
                kms_v1.CryptoKeyVersion,
            ),
            "ListCryptoKeyVersions": (
                self._list,
                kms_v1.ListCryptoKeyVersionsRequest,
                kms_v1.ListCryptoKeyVersionsResponse,
            ),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    self._wrapped(method, function),
                    request_deserializer=request_type.deserialize,
                    response_serializer=response_type.serialize,
                )
                for method, (function, request_type, response_type) in methods.items()
            },
        )

    def _wrapped(self, method: str, function: Callable[[Any], Any]) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.calls[method] += 1
            if self.latency_s:
                time.sleep(self.latency_s)
            try:
                fault = self._take_fault(method)
                if fault == "hang":
                    self._closing.wait()
                if fault not in ("", "lost", "hang"):
                    raise _AbortError(code_pb2.Code.Value(fault), "as the test wants it")
                if self.unauthenticated:
                    raise _AbortError(
                        code_pb2.UNAUTHENTICATED,
                        "Request had invalid authentication credentials.",
                    )
                if method in self.denied:
                    raise _AbortError(
                        code_pb2.PERMISSION_DENIED,
                        f"Permission 'cloudkms.{method}' denied on resource "
                        f"'{getattr(request, 'name', getattr(request, 'parent', method))}' "
                        "(or it may not exist).",
                    )
                answer = function(request)
            except _AbortError as error:
                if method == "AsymmetricSign":
                    self.outcomes[code_pb2.Code.Name(error.code)] += 1
                _abort(context, error)
            if method == "AsymmetricSign":
                self.outcomes["ok"] += 1
            if fault == "lost":
                self._relay.cut()
                time.sleep(0.05)
            return answer

        return handle

    def _take_fault(self, method: str) -> str:
        with self._lock:
            if method in ("AsymmetricSign", "CreateCryptoKeyVersion") and self._faults:
                return self._faults.popleft()[0]
        return ""

    # --- what it does ---

    def _find(self, name: str) -> Version:
        location = name.split("/")[3]
        if location not in LOCATIONS:
            raise _AbortError(
                code_pb2.INVALID_ARGUMENT,
                f"The request concerns location '{location}' but was sent to location 'global'. "
                f"Either Cloud KMS is not available in '{location}' or the request was misrouted.",
            )
        if name not in self.versions:
            raise _AbortError(code_pb2.NOT_FOUND, f"{name.partition('/cryptoKeyV')[0]} not found.")
        version = self.versions[name]
        if version.pending_answers:
            version.pending_answers -= 1
            if not version.pending_answers:
                version.state = "ENABLED"
        return version

    def _usable(self, version: Version) -> None:
        if version.state == "DISABLED" and version.signs_on > 0:
            version.signs_on -= 1
        elif version.state != "ENABLED":
            raise _AbortError(
                code_pb2.FAILED_PRECONDITION,
                f"{version.name} is not enabled, current state is: {version.state}.",
            )

    def _get_public_key(self, request: Any) -> Any:
        version = self._find(request.name)
        if version.private is None:
            raise _AbortError(
                code_pb2.INVALID_ARGUMENT, f"{version.name} is not an asymmetric key."
            )
        self._usable(version)
        public_key, formats = version.private.public_key(), kms_v1.PublicKey.PublicKeyFormat
        post_quantum = version.algorithm.startswith("PQ_")
        if post_quantum != (request.public_key_format == formats.NIST_PQC):
            raise _AbortError(
                code_pb2.INVALID_ARGUMENT,
                f"The public key format is not supported for {version.algorithm}.",
            )
        if post_quantum:
            raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            data = kms_v1.ChecksummedData(data=raw, crc32c_checksum=crc32c(raw))
            form = {"public_key": data, "public_key_format": formats.NIST_PQC}
        else:
            pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            form = {"pem": pem.decode(), "pem_crc32c": crc32c(pem)}
        answer = kms_v1.PublicKey(
            **form,
            name=version.name,
            algorithm=Algorithm[version.algorithm],
            protection_level=kms_v1.ProtectionLevel[version.protection],
        )
        if self.tamper_public_key is not None:
            self.tamper_public_key(answer)
        return answer

    def _asymmetric_sign(self, request: Any) -> Any:
        if self.limit is not None and not self.limit.take():
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.advice_s * 1e9))
            info = error_details_pb2.RetryInfo(retry_delay=delay)
            raise _AbortError(
                code_pb2.RESOURCE_EXHAUSTED,
                "Quota exceeded for quota metric 'HSM asymmetric cryptographic requests' of "
                "service 'cloudkms.googleapis.com'.",
                (info,) if self.advice_s else (),
            )
        if self.tamper_request is not None:
            self.tamper_request(request)
        version = self._find(request.name)
        # Digest and hash of the algorithms that sign one.
        hashed = HASHED.get(version.algorithm)
        sent = getattr(request.digest, hashed[0]) if hashed else request.data
        checksum = request.digest_crc32c if hashed else request.data_crc32c
        if not sent:
            raise _AbortError(
                code_pb2.INVALID_ARGUMENT,
                f"{version.algorithm} needs {f'digest.{hashed[0]}' if hashed else 'data'}.",
            )
        if checksum is not None and checksum != crc32c(sent):
            raise _AbortError(
                code_pb2.INVALID_ARGUMENT, "The checksum in field digest_crc32c did not match."
            )
        self._usable(version)
        self.signed.append(request)
        if hashed:
            signature = version.private.sign(sent, ec.ECDSA(utils.Prehashed(hashed[1])))
        else:
            signature = version.private.sign(sent)
        answer = kms_v1.AsymmetricSignResponse(
            name=version.name,
            signature=signature,
            signature_crc32c=crc32c(signature),
            verified_digest_crc32c=hashed is not None and checksum is not None,
            verified_data_crc32c=hashed is None and checksum is not None,
            protection_level=kms_v1.ProtectionLevel[version.protection],
        )
        if self.tamper is not None:
            self.tamper(answer)
        return answer

    def _get_crypto_key(self, request: Any) -> Any:
        first = next(v for n, v in self.versions.items() if n.startswith(f"{request.name}/"))
        return kms_v1.CryptoKey(
            name=request.name,
            purpose=Purpose.ASYMMETRIC_SIGN,
            version_template=kms_v1.CryptoKeyVersionTemplate(algorithm=Algorithm[first.algorithm]),
            labels=self.labels.get(request.name, {}),
        )

    def _update(self, request: Any) -> Any:
        if list(request.update_mask.paths) != ["labels"]:
            raise _AbortError(code_pb2.INVALID_ARGUMENT, "update_mask is required")
        labels = dict(request.crypto_key.labels)
        if not all(_LABEL.fullmatch(text) for pair in labels.items() for text in pair):
            raise _AbortError(code_pb2.INVALID_ARGUMENT, "Invalid label")
        self.labels[request.crypto_key.name] = labels
        return self._get_crypto_key(kms_v1.GetCryptoKeyRequest(name=request.crypto_key.name))

    def _list(self, request: Any) -> Any:
        listed = [v for n, v in self.versions.items() if n.startswith(f"{request.parent}/")]
        start = int(request.page_token or "0")
        end = start + min(request.page_size or 100, self.page_size)
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=[
                kms_v1.CryptoKeyVersion(
                    name=each.name, state=State[each.state], algorithm=Algorithm[each.algorithm]
                )
                for each in listed[start:end]
            ],
            next_page_token=str(end) if end < len(listed) else "",
            total_size=len(listed),
        )

    def _create(self, request: Any) -> Any:
        key = request.parent.rpartition("/")[2]
        first = next(v for n, v in self.versions.items() if n.startswith(f"{request.parent}/"))
        name = self.add_key(first.algorithm, "PENDING_GENERATION", key)
        self.versions[name].pending_answers = 3
        return kms_v1.CryptoKeyVersion(
            name=name, state=State.PENDING_GENERATION, algorithm=Algorithm[first.algorithm]
        )


def _abort(context: grpc.ServicerContext, error: _AbortError) -> None:
    details = []
    for detail in error.details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.append(packed)
    status = status_pb2.Status(code=error.code, message=error.message, details=details)
    context.abort_with_status(rpc_status.to_status(status))
