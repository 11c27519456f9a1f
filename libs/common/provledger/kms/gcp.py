"""Keys in Google Cloud KMS: `gcp-kms:projects/…/cryptoKeyVersions/N`, through google-cloud-kms.

(The extra `gcp`.) Only exact versions: for asymmetric keys there is no "current" one, and which one
signs is the key registry's to say. Credentials are found as in every Google client (ADC), again
where they are refused.

What the service's account needs on the key::

    roles/cloudkms.publicKeyViewer   cloudkms.cryptoKeyVersions.viewPublicKey, to open it
    roles/cloudkms.signer            cloudkms.cryptoKeyVersions.useToSign, to sign
    cloudkms.cryptoKeys.get, cloudkms.cryptoKeys.update, cloudkms.cryptoKeyVersions.list and
    cloudkms.cryptoKeyVersions.create
                                     only for whoever rotates keys without naming the new one

==========  ===================  ==============================================
algorithm   key algorithm        what is sent
==========  ===================  ==============================================
ed25519     EC_SIGN_ED25519      `data`: the message, 64 KiB at most
ecdsa-p256  EC_SIGN_P256_SHA256  `digest`: its SHA-256; the answer is DER
ecdsa-p384  EC_SIGN_P384_SHA384  `digest`: its SHA-384; the answer is DER
ml-dsa-44   PQ_SIGN_ML_DSA_44    `data`: the message, 64 KiB at most
ml-dsa-65   PQ_SIGN_ML_DSA_65    `data`: the same; both experimental
==========  ===================  ==============================================

Public keys of ML-DSA come as raw bytes only where asked for in that format, those of other kinds
as PEM only where not: which kind a key is of we learn by asking.

The client's own retry is switched off: on a dead server it goes on for most of a minute. CRC32C
(RFC 3720 §B.4) guards what we send and what comes back, as Google's guidelines for data integrity
ask: the server must say that it verified ours, and the name of the version that signed is compared.

A version that is disabled goes on signing for a minute or more, until all servers know; so a
revocation acts in our key registry first, and never waits for this.

Trust: Google holds the key, in software or in an HSM as `RemoteSigner.protection` says, and signs
for whoever has useToSign. Left to others: retries and limits (`provledger.kms.remote`), verifying
signatures (`provledger.kms.signing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from provledger import logs
from provledger.errors import KeyFormatError
from provledger.jwk import Algorithm, PublicKey, algorithm_of, ml_dsa_type
from provledger.kms._gcp_client import (
    SCHEME,
    Reference,
    connect,
    is_denied,
    parse,
    refuses_credentials,
    translate,
)
from provledger.kms._gcp_create import Ceremony
from provledger.kms._renewing import DENIED_S, RENEW_S, Renewable
from provledger.kms.base import Capabilities
from provledger.kms.errors import KMSConfigError, KMSIntegrityError, KMSMessageTooLongError
from provledger.kms.remote import (
    CREATING,
    DIGESTS,
    OPENING,
    Caller,
    CreatedKey,
    RemoteSigner,
    Wanted,
)

log = logs.get(__name__)

MAX_DATA_BYTES: Final = 64 * 1024
"""Longest message that Cloud KMS takes unhashed: `gcloud kms asymmetric-sign` names this bound of
the API, whose reference is silent."""


@dataclass(frozen=True, slots=True)
class _Spec:
    """How Google calls an algorithm of ours, and whether it is sent the message or a digest."""

    algorithm: Algorithm
    key_algorithm: str
    hashed: bool


_SPECS: Final = tuple(
    _Spec(Algorithm(name), key_algorithm, sent == "digest")
    for name, key_algorithm, sent in (
        "ed25519     EC_SIGN_ED25519      data".split(),
        "ecdsa-p256  EC_SIGN_P256_SHA256  digest".split(),
        "ecdsa-p384  EC_SIGN_P384_SHA384  digest".split(),
        "ml-dsa-44   PQ_SIGN_ML_DSA_44    data".split(),
        "ml-dsa-65   PQ_SIGN_ML_DSA_65    data".split(),
    )
)


class GCPProvider:
    """Cloud KMS in whatever projects the URIs name. Has no use for a key directory.

    clock: seconds, for how soon refused credentials are read again.
    """

    def __init__(
        self, key_dir: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock

    @property
    def capabilities(self) -> Capabilities:
        """All algorithms, and new versions of keys."""
        return Capabilities(
            algorithms=frozenset(spec.algorithm for spec in _SPECS), can_create_keys=True
        )

    def check_uri(self, uri: str) -> None:
        """Raise KMSConfigError unless `uri` names one exact key version; no I/O."""
        parse(uri)

    async def open_signer(self, uri: str) -> RemoteSigner:
        """Open a key version, once it is known to be there, enabled and of a kind that we use.

        Raises KMSKeyNotFoundError, KMSKeyDisabledError, KMSPermissionError, KMSConfigError (wrong
        purpose, algorithm or location), KMSUnavailableError, KMSNotInstalledError.
        """
        client = await _Client.connect(parse(uri), self._clock)
        try:
            spec, public_key, protection = await _describe(client, Caller(uri, OPENING))
        except BaseException:
            await client.close()
            raise

        async def sign_once(message: bytes, timeout_s: float) -> bytes:
            return await _sign(client, spec, message, timeout_s)

        return RemoteSigner(
            uri, spec.algorithm, public_key, sign_once, release=client.close, protection=protection
        )

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        """Raise KMSConfigError: Google numbers versions itself, so see `create_beside`."""
        reference = parse(uri)
        raise KMSConfigError(
            f"key {uri}: Cloud KMS numbers new versions itself; make one with: gcloud kms keys "
            f"versions create --key={reference.parent}, and give its name"
        )

    async def create_beside(self, uri: str, algorithm: Algorithm, wanted: Wanted) -> CreatedKey:
        """Make a further version of the key that `uri` is a version of.

        A version that an earlier attempt of the same ceremony made is taken, and no other
        (`provledger.kms._gcp_create`). Raises as `open_signer` does; KMSConfigError also if the
        key's template is for another algorithm.
        """
        client = await _Client.connect(parse(uri), self._clock)
        try:
            expected = next((s.key_algorithm for s in _SPECS if s.algorithm is algorithm), "")
            ceremony = Ceremony(client, wanted, Caller(uri, CREATING))
            name, found = await ceremony.find_or_create(expected)
            created = SCHEME + name
            log.info("kms.key_created", uri=created, kid=wanted.kid, found=found)
            client.reference = parse(created)
            # Generating it takes a moment, longer in an HSM.
            _, public_key, _ = await _describe(client, Caller(created, CREATING))
        finally:
            await client.close()
        return CreatedKey(created, public_key, found)


class _Client:
    """Google's client for one key version, with its retries off.

    It is another one once its credentials are refused, or denied something:
    `provledger.kms._renewing`.
    """

    def __init__(self, reference: Reference, kms: Any, google: Renewable[Any]) -> None:
        self.reference = reference
        self.kms = kms
        self._google = google

    @classmethod
    async def connect(
        cls, reference: Reference, clock: Callable[[], float] = time.monotonic
    ) -> _Client:
        """Make a client; makes no call yet."""

        async def again() -> Any:
            return (await connect(reference.uri))[1]

        kms, google = await connect(reference.uri)
        return cls(reference, kms, Renewable(reference.uri, google, again, _drop, clock=clock))

    async def call(self, method: str, function: str, request: Any, timeout_s: float) -> Any:
        """Call once; raises a subclass of KMSError."""
        google = self._google.client
        try:
            try:
                return await _run(google, function, request, timeout_s)
            except Exception as error:
                if not await self._has_others(google, error):
                    raise
                return await _run(self._google.client, function, request, timeout_s)
        except Exception as error:
            raise translate(error, self.reference.uri, method) from None

    async def _has_others(self, google: Any, error: Exception) -> bool:
        if refuses_credentials(error):
            return await self._google.renewed(google, RENEW_S)
        return is_denied(error) and await self._google.renewed(google, DENIED_S)

    async def close(self) -> None:
        """Drop the connection; calls on their way are cancelled."""
        await self._google.close().transport.close()


async def _run(google: Any, function: str, request: Any, timeout_s: float) -> Any:
    return await getattr(google, function)(request=request, retry=None, timeout=timeout_s)


async def _drop(google: Any) -> None:
    """Close a client's connection, but let calls end: those that are cut off look cancelled."""
    await google.transport.grpc_channel.close(CREATING.attempt_s)


async def _describe(client: _Client, caller: Caller) -> tuple[_Spec, PublicKey, str]:
    """Return how a key version signs, its public half, and how it is protected."""
    uri, name = client.reference.uri, client.reference.name

    async def attempt(timeout_s: float) -> tuple[_Spec, PublicKey, str]:
        answer, pem, raw = await _get_public_key(client, name, timeout_s)
        kind = _name(answer.algorithm)
        spec = next((spec for spec in _SPECS if spec.key_algorithm == kind), None)
        if spec is None:
            raise KMSConfigError(
                f"key {uri}: is of algorithm {kind}; needed is one of algorithm "
                + " or ".join(spec.key_algorithm for spec in _SPECS)
            )
        return spec, _load(uri, spec, pem, raw), _name(answer.protection_level)

    return await caller.call(attempt)


async def _get_public_key(client: _Client, name: str, timeout_s: float) -> tuple[Any, bytes, bytes]:
    """Return the answer, the key in PEM, and its raw bytes; one of the two is empty."""
    request = client.kms.GetPublicKeyRequest(name=name)
    try:
        answer = await client.call("GetPublicKey", "get_public_key", request, timeout_s)
    except KMSConfigError as error:
        # SPEC: "for PQC algorithms, an error will be returned" (PublicKeyFormat, unspecified).
        request.public_key_format = client.kms.PublicKey.PublicKeyFormat.NIST_PQC
        try:
            answer = await client.call("GetPublicKey", "get_public_key", request, timeout_s)
        except KMSConfigError:
            raise error from None
        raw = bytes(answer.public_key.data)
        _check_answer(client, answer.name, raw, answer.public_key.crc32c_checksum)
        return answer, b"", raw
    pem = answer.pem.encode("utf-8")
    _check_answer(client, answer.name, pem, answer.pem_crc32c)
    return answer, pem, b""


def _name(value: Any) -> str:
    """The name of an enum value; a number if it is newer than the installed client."""
    return str(getattr(value, "name", value))


def _load(uri: str, spec: _Spec, pem: bytes, raw: bytes) -> PublicKey:
    try:
        kind = ml_dsa_type(spec.algorithm, "PublicKey") if raw else None
        public_key: Any = kind.from_public_bytes(raw) if kind else load_pem_public_key(pem)
        algorithm = algorithm_of(public_key)
    except (ValueError, UnsupportedAlgorithm, KeyFormatError):
        algorithm = None
    if algorithm is not spec.algorithm:
        raise KMSIntegrityError(f"key {uri}: Cloud KMS gave a public key of another kind")
    checked: PublicKey = public_key
    return checked


async def _sign(client: _Client, spec: _Spec, message: bytes, timeout_s: float) -> bytes:
    """Make one attempt at a signature."""
    request = client.kms.AsymmetricSignRequest(name=client.reference.name)
    if not spec.hashed and len(message) > MAX_DATA_BYTES:
        raise KMSMessageTooLongError(
            f"key {client.reference.uri}: Cloud KMS signs at most {MAX_DATA_BYTES} bytes with "
            f"{spec.algorithm}, these are {len(message)}; use a P-256 key for them"
        )
    if spec.hashed:
        digest = DIGESTS[spec.algorithm](message)
        field = "sha256" if spec.algorithm is Algorithm.ECDSA_P256 else "sha384"
        request.digest = client.kms.Digest(**{field: digest})
        request.digest_crc32c = crc32c(digest)
    else:
        request.data = message
        request.data_crc32c = crc32c(message)
    answer = await client.call("AsymmetricSign", "asymmetric_sign", request, timeout_s)
    verified = answer.verified_digest_crc32c if spec.hashed else answer.verified_data_crc32c
    if not verified:
        raise KMSIntegrityError(
            f"key {client.reference.uri}: Cloud KMS did not verify the checksum of our request"
        )
    signature: bytes = answer.signature
    _check_answer(client, answer.name, signature, answer.signature_crc32c)
    return signature


def _check_answer(client: _Client, name: str, data: bytes, checksum: int | None) -> None:
    if name != client.reference.name:
        raise KMSIntegrityError(f"key {client.reference.uri}: another key version answered")
    if checksum is None or checksum != crc32c(data):
        raise KMSIntegrityError(f"key {client.reference.uri}: the answer arrived damaged (CRC32C)")


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of `data`, RFC 3720 §B.4; for the few bytes that we send."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
