"""Keys in AWS KMS: `aws-kms:<key ARN>[?fips=1]`, through boto3 (the extra `aws`).

Only whole key ARNs: an alias can be pointed at another key behind our back, and a bare id does not
say in which region and account it is. The ARN's region is where we call; credentials, proxies and
private endpoints (AWS_ENDPOINT_URL_KMS) are found as in every AWS client. `?fips=1`, like
AWS_USE_FIPS_ENDPOINT=true, insists on a FIPS endpoint: boto3 itself would silently prefer a
configured one that is none. Credentials that are refused are looked for again.

What the service's identity must be allowed, in the key policy or by IAM::

    kms:DescribeKey, kms:GetPublicKey    on the key, to open it
    kms:Sign                             on the key, to sign
    kms:CreateKey                        only for whoever rotates keys without naming the new one

==========  =======================  ================  ===========  ================================
algorithm   key spec                 SigningAlgorithm  MessageType  what is sent
==========  =======================  ================  ===========  ================================
ed25519     ECC_NIST_EDWARDS25519    ED25519_SHA_512   RAW          the message, 4,096 bytes at most
ecdsa-p256  ECC_NIST_P256            ECDSA_SHA_256     DIGEST       its SHA-256; the answer is DER
ecdsa-p384  ECC_NIST_P384            ECDSA_SHA_384     DIGEST       its SHA-384; the answer is DER
ml-dsa-44   ML_DSA_44                ML_DSA_SHAKE_256  RAW          the message, 4,096 bytes at most
ml-dsa-65   ML_DSA_65                ML_DSA_SHAKE_256  RAW          the same; both experimental
==========  =======================  ================  ===========  ================================

(With a digest or ED25519_PH_SHA_512, Ed25519 would give a signature that no verifier of ours
accepts.) Every answer names the key and algorithm that were used; both are compared.

Trust: AWS holds the key and signs for whoever has kms:Sign; nobody can take it away from there.
What this module learns is public. Left to others: retries and limits (`provledger.kms.remote`),
verifying signatures (`provledger.kms.signing`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from provledger import logs
from provledger.errors import KeyFormatError
from provledger.jwk import Algorithm, PublicKey, algorithm_of
from provledger.kms._aws_client import Client, Reference, is_known_region, parse
from provledger.kms._aws_create import find_or_create
from provledger.kms._aws_errors import disabled
from provledger.kms.base import Capabilities
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyNotFoundError,
    KMSMessageTooLongError,
    KMSUnavailableError,
)
from provledger.kms.remote import (
    CREATING,
    DIGESTS,
    OPENING,
    SIGNING,
    Caller,
    CreatedKey,
    RemoteSigner,
    Wanted,
    shown,
)

log = logs.get(__name__)

MAX_RAW_BYTES: Final = 4096
"""Longest message that AWS takes unhashed (API reference, Sign, `Message`)."""


@dataclass(frozen=True, slots=True)
class _Spec:
    """How AWS calls an algorithm of ours."""

    algorithm: Algorithm
    key_usage: str
    key_spec: str
    signing_algorithm: str
    message_type: str


_SPECS: Final = tuple(
    _Spec(Algorithm(name), *words)
    for name, *words in (
        "ed25519     SIGN_VERIFY  ECC_NIST_EDWARDS25519  ED25519_SHA_512  RAW".split(),
        "ecdsa-p256  SIGN_VERIFY  ECC_NIST_P256          ECDSA_SHA_256    DIGEST".split(),
        "ecdsa-p384  SIGN_VERIFY  ECC_NIST_P384          ECDSA_SHA_384    DIGEST".split(),
        "ml-dsa-44   SIGN_VERIFY  ML_DSA_44              ML_DSA_SHAKE_256 RAW".split(),
        "ml-dsa-65   SIGN_VERIFY  ML_DSA_65              ML_DSA_SHAKE_256 RAW".split(),
    )
)


class AWSProvider:
    """AWS KMS in whatever accounts and regions the URIs name. Has no use for a key directory.

    clock: seconds, for how soon refused credentials are read again.
    """

    def __init__(
        self, key_dir: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock

    @property
    def capabilities(self) -> Capabilities:
        """All algorithms, and new keys."""
        return Capabilities(
            algorithms=frozenset(spec.algorithm for spec in _SPECS), can_create_keys=True
        )

    def check_uri(self, uri: str) -> None:
        """Raise KMSConfigError unless `uri` names one key by its whole ARN; no I/O."""
        parse(uri)

    async def open_signer(self, uri: str) -> RemoteSigner:
        """Open a key, once it is known to be there, enabled and meant for signing.

        Raises KMSKeyNotFoundError, KMSKeyDisabledError, KMSPermissionError, KMSConfigError (wrong
        usage or key spec, wrong region or endpoint), KMSUnavailableError, KMSNotInstalledError.
        """
        reference = parse(uri)
        client = await Client.connect(reference, SIGNING.attempt_s, self._clock)
        try:
            spec, public_key, origin = await _describe(client, Caller(uri, OPENING))
        except BaseException:
            await client.close()
            raise

        async def sign_once(message: bytes, timeout_s: float) -> bytes:
            return await _sign(client, spec, message)

        return RemoteSigner(
            uri, spec.algorithm, public_key, sign_once, release=client.close, protection=origin
        )

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        """Raise KMSConfigError: AWS chooses the ids of its keys, so see `create_beside`."""
        parse(uri)
        raise KMSConfigError(
            f"key {uri}: AWS KMS names new keys itself; make one with: aws kms create-key "
            "--key-usage SIGN_VERIFY --key-spec ECC_NIST_EDWARDS25519, and give its ARN"
        )

    async def create_beside(self, uri: str, algorithm: Algorithm, wanted: Wanted) -> CreatedKey:
        """Make a key in the region of the key at `uri`, or find what the ceremony made there.

        It has the default key policy and the tags of `provledger.kms._aws_create`. Never made
        twice when an answer is lost. Raises as `open_signer` does.
        """
        reference = parse(uri)
        spec = next((spec for spec in _SPECS if spec.algorithm is algorithm), None)
        if spec is None:
            raise KMSConfigError(f"key {uri}: AWS KMS is not used for {algorithm} here")
        client = await Client.connect(reference, CREATING.attempt_s, self._clock)
        try:
            arn, found = await find_or_create(client, spec.key_usage, spec.key_spec, wanted)
            created = f"aws-kms:{arn}" + ("?fips=1" if reference.fips else "")
            log.info("kms.key_created", uri=created, kid=wanted.kid, found=found)
            client.reference = parse(created)
            # It takes a few seconds until all of the region's servers know it.
            _, public_key, _ = await _describe(client, Caller(created, CREATING), is_new=True)
        finally:
            await client.close()
        return CreatedKey(created, public_key, found)


async def _describe(
    client: Client, caller: Caller, *, is_new: bool = False
) -> tuple[_Spec, PublicKey, str]:
    """Return what we need to know of a key: how it signs, its public half, and where it came from.

    A key that `is_new` may not be known to all of the region's servers yet.
    """
    reference = client.reference

    async def attempt(timeout_s: float) -> tuple[_Spec, PublicKey, str]:
        try:
            answer = await client.call("DescribeKey", "describe_key", KeyId=reference.arn)
            metadata = answer.get("KeyMetadata")
            if not metadata:
                raise KMSUnavailableError(f"key {reference.uri}: was not described")
            spec = _check_metadata(reference, metadata)
            public = await client.call("GetPublicKey", "get_public_key", KeyId=reference.arn)
        except KMSKeyNotFoundError as error:
            if is_new:
                raise KMSUnavailableError(str(error)) from None
            raise
        return spec, _check_public_key(reference, spec, public), metadata.get("Origin", "")

    try:
        return await caller.call(attempt)
    except KMSUnavailableError as error:
        if not await asyncio.to_thread(is_known_region, reference):
            raise KMSConfigError(
                f"{error}; the region {reference.region} in its ARN is none that boto3 knows: "
                "correct it, or update boto3 if the region is new"
            ) from None
        raise


def _check_metadata(reference: Reference, metadata: Mapping[str, Any]) -> _Spec:
    uri, state = reference.uri, metadata.get("KeyState")
    if metadata.get("Arn") != reference.arn:
        raise KMSIntegrityError(f"key {uri}: AWS KMS described another key")
    spec = next((spec for spec in _SPECS if spec.key_spec == metadata.get("KeySpec")), None)
    if spec is None or metadata.get("KeyUsage") != spec.key_usage:
        raise KMSConfigError(
            f"key {uri}: is of key spec {shown(metadata.get('KeySpec'))} for "
            f"{shown(metadata['KeyUsage'])}; needed is one for SIGN_VERIFY of key spec "
            + " or ".join(spec.key_spec for spec in _SPECS)
        )
    if state in ("Creating", "Updating", "Unavailable"):
        raise KMSUnavailableError(f"key {uri}: is in state {state}, which should pass")
    if state != "Enabled":
        raise disabled(uri, f"is in state {shown(state)}")
    return spec


def _check_public_key(reference: Reference, spec: _Spec, answer: Mapping[str, Any]) -> PublicKey:
    try:
        public_key: Any = load_der_public_key(answer.get("PublicKey", b""))
        algorithm = algorithm_of(public_key)
    except (ValueError, UnsupportedAlgorithm, KeyFormatError):
        algorithm = None
    if (
        answer.get("KeyId") != reference.arn
        or algorithm is not spec.algorithm
        or spec.signing_algorithm not in answer.get("SigningAlgorithms", ())
    ):
        raise KMSIntegrityError(f"key {reference.uri}: AWS KMS gave the public key of another key")
    checked: PublicKey = public_key
    return checked


async def _sign(client: Client, spec: _Spec, message: bytes) -> bytes:
    """Make one attempt at a signature."""
    reference = client.reference
    if spec.message_type == "RAW":
        if len(message) > MAX_RAW_BYTES:
            raise KMSMessageTooLongError(
                f"key {reference.uri}: AWS KMS signs at most {MAX_RAW_BYTES} bytes with "
                f"{spec.algorithm}, these are {len(message)}; use a P-256 key for them"
            )
        sent = message
    else:
        sent = DIGESTS[spec.algorithm](message)
    answer = await client.call(
        "Sign",
        "sign",
        KeyId=reference.arn,
        Message=sent,
        MessageType=spec.message_type,
        SigningAlgorithm=spec.signing_algorithm,
    )
    signature: bytes | None = answer.get("Signature")
    if not signature:
        # boto3 makes an empty answer of a page that some proxy sent.
        raise KMSUnavailableError(f"key {reference.uri}: the answer to Sign holds no signature")
    if answer.get("KeyId") != reference.arn:
        raise KMSIntegrityError(f"key {reference.uri}: AWS KMS signed with another key")
    if answer.get("SigningAlgorithm") != spec.signing_algorithm:
        raise KMSIntegrityError(f"key {reference.uri}: AWS KMS signed with another algorithm")
    return signature
