"""AWS KMS as its clients see it: an HTTP server that speaks the JSON 1.1 protocol of the real one.

Written from the API reference and from what real answers look like, so that the real boto3 runs
against it, with the edges that matter here and that other stand-ins leave out: MessageType=DIGEST
signs the digest as it is, Ed25519 takes RAW only, keys in other states do not sign, an ARN of
another region is refused, calls are throttled by a token bucket with an error that is not modelled,
and an answer can be lost after the work was done. Signatures of requests are not verified, but a
request must carry one, for this region and service, with a time near ours, and by an access key
that is active, if a test says which are.

    with FakeAWSKMS(region="eu-central-1") as kms:
        arn = kms.add_key("ECC_NIST_EDWARDS25519")
        ...                                            # AWS_ENDPOINT_URL_KMS=kms.url
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.relay import reset
from tests.support.token_bucket import TokenBucket

ACCOUNT = "111122223333"

SIGNING_ALGORITHMS = {
    "ECC_NIST_EDWARDS25519": ["ED25519_SHA_512", "ED25519_PH_SHA_512"],
    "ECC_NIST_P256": ["ECDSA_SHA_256"],
    "ECC_NIST_P384": ["ECDSA_SHA_384"],
    "ECC_NIST_P521": ["ECDSA_SHA_512"],
    "ML_DSA_44": ["ML_DSA_SHAKE_256"],
    "ML_DSA_65": ["ML_DSA_SHAKE_256"],
    "RSA_2048": ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"],
}
HASHES: dict[str, hashes.HashAlgorithm] = {
    "ECDSA_SHA_256": hashes.SHA256(),
    "ECDSA_SHA_384": hashes.SHA384(),
}
THROTTLED = (
    "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
)
_CREDENTIAL_RE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/ ]+)/(\d{8})/([a-z0-9-]+)/kms/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}"
)


class AWSError(Exception):
    """An error answer: HTTP status, `__type` and message."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


@dataclass
class Fault:
    """What to do with one call: see `FakeAWSKMS.fail_next`."""

    kind: str
    code: str = ""
    status: int = 500


@dataclass
class Key:
    """One KMS key."""

    arn: str
    spec: str
    usage: str
    private: Any
    state: str = "Enabled"
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    unlisted_answers: int = 0
    """So many more times ListKeys leaves it out."""
    creating_answers: int = 0
    """So many more times it is not known, or not ready, as just after CreateKey."""

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "AWSAccountId": ACCOUNT,
            "Arn": self.arn,
            "KeyId": self.arn.rpartition("/")[2],
            "CreationDate": 1763665200.0,
            "Description": self.description,
            "Enabled": self.state == "Enabled",
            "KeyManager": "CUSTOMER",
            "KeySpec": self.spec,
            "KeyState": self.state,
            "KeyUsage": self.usage,
            "MultiRegion": False,
            "Origin": "AWS_KMS",
            "SigningAlgorithms": SIGNING_ALGORITHMS.get(self.spec, []),
        }


def _generate(spec: str) -> Any:
    match spec:
        case "ECC_NIST_EDWARDS25519":
            return Ed25519PrivateKey.generate()
        case "ECC_NIST_P256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ECC_NIST_P384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ECC_NIST_P521":
            return ec.generate_private_key(ec.SECP521R1())
        case "ML_DSA_44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "ML_DSA_65":
            return mldsa.MLDSA65PrivateKey.generate()
        case "RSA_2048":
            return rsa.generate_private_key(65537, 2048)
        case "SYMMETRIC_DEFAULT":
            return None
    raise AWSError("ValidationException", f"unknown key spec {spec}")


@dataclass
class FakeAWSKMS:
    """A region of AWS KMS, with switches for a test to turn."""

    region: str = "eu-central-1"
    partition: str = "aws"
    latency_s: float = 0.0
    clock_ahead_s: float = 0.0
    denied: set[str] = field(default_factory=set)
    access_keys: set[str] | None = None
    """Ids of the access keys that are active; None: whatever is given."""
    denied_keys: set[str] = field(default_factory=set)
    """Ids of access keys whose identity may use none of our keys."""
    limit: TokenBucket | None = None
    page_size: int = 1000
    unlisted_answers: int = 0
    """So many answers of ListKeys leave out a key that was just made."""
    private_arns: set[str] = field(default_factory=set)
    """Keys whose policy does not let our caller see their tags."""
    calls: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of Sign only: `ok` or an error code; a lost answer counts as ok, since the work was done."""
    signed: list[dict[str, Any]] = field(default_factory=list)
    tamper: Callable[[dict[str, Any]], None] | None = None
    """Changes every answer of Sign before it goes out."""

    def __post_init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, str] = {}
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            kms = fake

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()

    def add_key(self, spec: str, usage: str = "SIGN_VERIFY", state: str = "Enabled") -> str:
        """Make a key and return its ARN."""
        arn = f"arn:{self.partition}:kms:{self.region}:{ACCOUNT}:key/{uuid.uuid4()}"
        self.keys[arn] = Key(arn, spec, usage, _generate(spec), state)
        return arn

    def fail_next(self, kind: str, times: int = 1, code: str = "", status: int = 500) -> None:
        """Make the next calls of Sign or CreateKey fail.

        kind: `lost` (done, but the connection is cut), `refused` (cut before anything is done),
        `error` (`code` and `status`), `garbage` (an answer that is no JSON), `hang` (no answer
        until the server is closed).
        """
        with self._lock:
            self._faults.extend(Fault(kind, code, status) for _ in range(times))

    def clear_faults(self) -> None:
        """Forget the failures still to come."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, operation: str) -> Fault | None:
        with self._lock:
            if operation in ("Sign", "CreateKey") and self._faults:
                return self._faults.popleft()
        return None

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Do what `operation` asks; raises AWSError."""
        with self._lock:
            self.calls[operation] += 1
        try:
            if self.limit is not None and operation == "Sign" and not self.limit.take():
                raise AWSError("ThrottlingException", THROTTLED)
            if operation in self.denied:
                raise AWSError(
                    "AccessDeniedException",
                    f"User: arn:aws:sts::{ACCOUNT}:assumed-role/witness/i-0 is not authorized to "
                    f"perform: kms:{operation} because no identity-based policy allows the "
                    f"kms:{operation} action",
                )
            match operation:
                case "DescribeKey":
                    return {"KeyMetadata": self._find(request["KeyId"]).metadata}
                case "GetPublicKey":
                    return self._get_public_key(request)
                case "Sign":
                    result = self._sign(request)
                    self.outcomes["ok"] += 1
                    return result
                case "CreateKey":
                    return self._create_key(request)
                case "ListKeys":
                    return self._list_keys(request)
                case "ListResourceTags":
                    return self._list_tags(request)
            raise AWSError("UnknownOperationException")
        except AWSError as error:
            if operation == "Sign":
                with self._lock:
                    self.outcomes[error.code] += 1
            raise

    def _find(self, key_id: str) -> Key:
        if key_id.startswith("arn:"):
            parts = key_id.split(":")
            if len(parts) != 6 or parts[2] != "kms":
                raise AWSError("ValidationException", f"Invalid keyId {key_id}")
            if parts[3] != self.region or parts[1] != self.partition:
                # What the real one says to an ARN of another region.
                raise AWSError("NotFoundException", f"Invalid arn {parts[3]}")
            key_id = parts[5].removeprefix("key/")
        arn = f"arn:{self.partition}:kms:{self.region}:{ACCOUNT}:key/{key_id}"
        arn = self.aliases.get(key_id, arn)
        key = self.keys.get(arn)
        if key is None:
            raise AWSError("NotFoundException", f"Key '{arn}' does not exist")
        if key.creating_answers > 0:
            key.creating_answers -= 1
            if key.creating_answers % 2:
                raise AWSError("NotFoundException", f"Key '{arn}' does not exist")
            key.state = "Enabled" if key.creating_answers == 0 else "Creating"
        return key

    def _usable(self, key: Key) -> None:
        if key.state == "Disabled":
            raise AWSError("DisabledException", f"{key.arn} is disabled.")
        if key.state == "Unavailable":
            raise AWSError("KeyUnavailableException", f"{key.arn} is unavailable.", 500)
        if key.state != "Enabled":
            raise AWSError("KMSInvalidStateException", f"{key.arn} is {_words(key.state)}.")

    def _get_public_key(self, request: dict[str, Any]) -> dict[str, Any]:
        key = self._find(request["KeyId"])
        if key.private is None:
            raise AWSError(
                "UnsupportedOperationException", f"{key.arn} key spec is {key.spec}, not asymmetric"
            )
        self._usable(key)
        der = key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "KeyId": key.arn,
            "KeySpec": key.spec,
            "CustomerMasterKeySpec": key.spec,
            "KeyUsage": key.usage,
            "PublicKey": base64.b64encode(der).decode(),
            "SigningAlgorithms": SIGNING_ALGORITHMS[key.spec],
        }

    def _sign(self, request: dict[str, Any]) -> dict[str, Any]:
        key = self._find(request["KeyId"])
        message = base64.b64decode(request["Message"], validate=True)
        kind, algorithm = request.get("MessageType", "RAW"), request["SigningAlgorithm"]
        if not 1 <= len(message) <= 4096:
            raise AWSError(
                "ValidationException",
                "1 validation error detected: Value at 'message' failed to satisfy constraint: "
                "Member must have length less than or equal to 4096",
            )
        if kind not in ("RAW", "DIGEST"):
            raise AWSError("ValidationException", f"Value '{kind}' at 'messageType'")
        if key.usage != "SIGN_VERIFY":
            raise AWSError(
                "InvalidKeyUsageException", f"{key.arn} key usage is {key.usage}, not SIGN_VERIFY"
            )
        if algorithm not in SIGNING_ALGORITHMS[key.spec]:
            raise AWSError(
                "InvalidKeyUsageException", f"Algorithm {algorithm} is incompatible with {key.spec}"
            )
        self._usable(key)
        self.signed.append(request)
        answer = {
            "KeyId": key.arn,
            "Signature": base64.b64encode(_sign(key, algorithm, kind, message)).decode(),
            "SigningAlgorithm": algorithm,
        }
        if self.tamper is not None:
            self.tamper(answer)
        return answer

    def _create_key(self, request: dict[str, Any]) -> dict[str, Any]:
        arn = self.add_key(request["KeySpec"], request["KeyUsage"], "Creating")
        key = self.keys[arn]
        key.description = request.get("Description", "")
        key.tags = {each["TagKey"]: each["TagValue"] for each in request.get("Tags", ())}
        key.creating_answers = 4
        key.unlisted_answers = self.unlisted_answers
        return {"KeyMetadata": key.metadata}

    def _list_keys(self, request: dict[str, Any]) -> dict[str, Any]:
        listed = []
        for key in list(self.keys.values()):
            if key.unlisted_answers > 0:
                key.unlisted_answers -= 1
            else:
                listed.append(key)
        start = int(request.get("Marker", "0"))
        end = start + min(request.get("Limit", 100), self.page_size)
        answer: dict[str, Any] = {
            "Keys": [
                {"KeyArn": key.arn, "KeyId": key.arn.rpartition("/")[2]}
                for key in listed[start:end]
            ],
            "Truncated": end < len(listed),
        }
        return answer | ({"NextMarker": str(end)} if end < len(listed) else {})

    def _list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        key = self.keys.get(request["KeyId"])
        if key is None:
            raise AWSError("NotFoundException", f"Key '{request['KeyId']}' does not exist")
        if key.arn in self.private_arns:
            raise AWSError("AccessDeniedException", "no resource-based policy allows the action")
        tags = [{"TagKey": name, "TagValue": value} for name, value in key.tags.items()]
        return {"Tags": tags, "Truncated": False}


def _sign(key: Key, algorithm: str, kind: str, message: bytes) -> bytes:
    if isinstance(key.private, Ed25519PrivateKey):
        if algorithm != "ED25519_SHA_512" or kind != "RAW":
            # ED25519_PH_SHA_512 is Ed25519ph (RFC 8032 §5.1), which no client of ours may ask for.
            raise AWSError("ValidationException", f"MessageType {kind} does not fit {algorithm}")
        return key.private.sign(message)
    if algorithm == "ML_DSA_SHAKE_256":
        if kind != "RAW":
            # DIGEST does not exist for it, and EXTERNAL_MU no client of ours asks for.
            raise AWSError("ValidationException", f"MessageType {kind} does not fit {algorithm}")
        made: bytes = key.private.sign(message)
        return made
    chosen = HASHES[algorithm]
    if kind == "RAW":
        signature: bytes = key.private.sign(message, ec.ECDSA(chosen))
        return signature
    if len(message) != chosen.digest_size:
        raise AWSError(
            "ValidationException", f"Digest is invalid length for algorithm {algorithm}."
        )
    signature = key.private.sign(message, ec.ECDSA(utils.Prehashed(chosen)))
    return signature


def _words(state: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r" \1", state).lower()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: set[socket.socket] = set()
        self.closing = threading.Event()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def drop_connections(self) -> None:
        self.closing.set()
        for connection in self.open:
            reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in the middle here; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    kms: FakeAWSKMS
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kms = self.kms
        if kms.latency_s:
            time.sleep(kms.latency_s)
        try:
            operation = self._operation()
            fault = kms.take_fault(operation)
            if fault is not None and fault.kind == "refused":
                return self._cut()
            if fault is not None and fault.kind == "error":
                kms.calls[operation] += 1
                kms.outcomes[fault.code] += 1
                raise AWSError(fault.code, "as the test wants it", fault.status)
            answer = kms.answer(operation, json.loads(body))
        except AWSError as error:
            payload = json.dumps({"__type": error.code, "message": error.message}).encode()
            return self._send(error.status, payload)
        if fault is not None and fault.kind == "lost":
            return self._cut()
        if fault is not None and fault.kind == "hang":
            self.server.closing.wait()
            return self._cut()
        garbage = fault is not None and fault.kind == "garbage"
        return self._send(200, b"<html>?" if garbage else json.dumps(answer).encode())

    def _operation(self) -> str:
        target = self.headers.get("X-Amz-Target", "")
        if not target.startswith("TrentService.") or (
            self.headers.get("Content-Type") != "application/x-amz-json-1.1"
        ):
            raise AWSError("UnknownOperationException")
        authorization = self.headers.get("Authorization")
        if not authorization or not self.headers.get("X-Amz-Date"):
            raise AWSError("MissingAuthenticationTokenException", "Missing Authentication Token")
        match = _CREDENTIAL_RE.fullmatch(authorization)
        if match is None or not {"host", "x-amz-date", "x-amz-target"} <= set(match[4].split(";")):
            raise AWSError("IncompleteSignatureException", "Authorization header is not SigV4")
        if self.kms.access_keys is not None and match[1] not in self.kms.access_keys:
            raise AWSError(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        if match[1] in self.kms.denied_keys:
            raise AWSError("AccessDeniedException", "User: x is not authorized to perform: kms:y")
        if match[3] != self.kms.region:
            raise AWSError(
                "InvalidSignatureException", "Credential should be scoped to a valid region."
            )
        sent = datetime.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(time.time() + self.kms.clock_ahead_s - sent.timestamp()) > 300:
            raise AWSError("InvalidSignatureException", "Signature expired")
        return target.removeprefix("TrentService.")

    def _send(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.send_header("x-amz-crc32", str(zlib.crc32(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile = _Nowhere()  # type: ignore[assignment]
        reset(self.connection)


class _Nowhere:
    closed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
