"""What AWS KMS and boto3 say went wrong, in our terms and with the remedy.

Matched on `Error.Code`, since many that occur are not modelled (ThrottlingException,
AccessDeniedException, every 5xx), so that boto3 has no class for them. An error we do not know is
a passing one if the server says so (5xx, 429), else one that needs an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from provledger.errors import KMSError
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyDisabledError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSThrottledError,
    KMSUnavailableError,
)
from provledger.kms.remote import shown

_THROTTLED: Final = frozenset(
    "ThrottlingException Throttling ThrottledException RequestThrottled RequestThrottledException "
    "TooManyRequestsException RequestLimitExceeded SlowDown PriorRequestNotComplete".split()
)
_AWAY: Final = frozenset(
    "KeyUnavailableException DependencyTimeoutException KMSInternalException InternalFailure "
    "InternalServerError InternalServerException ServiceUnavailable ServiceUnavailableException "
    "RequestTimeout RequestTimeoutException".split()
)
_REFUSED: Final = frozenset(
    "AccessDeniedException AccessDenied NotAuthorized OptInRequired "
    "KMSAccessDeniedException InvalidGrantTokenException".split()
)
_WHO_ARE_YOU: Final = frozenset(
    "UnrecognizedClientException InvalidClientTokenId ExpiredToken ExpiredTokenException "
    "MissingAuthenticationToken MissingAuthenticationTokenException IncompleteSignature "
    "InvalidAccessKeyId AuthFailure InvalidToken".split()
)
_CLOCK: Final = frozenset(
    "InvalidSignatureException SignatureDoesNotMatch RequestExpired RequestTimeTooSkewed "
    "RequestInTheFuture".split()
)
_MISFIT: Final = frozenset(
    "InvalidKeyUsageException UnsupportedOperationException InvalidArnException "
    "ValidationException ValidationError InvalidParameterValue SerializationException "
    "UnknownOperationException InvalidAction LimitExceededException TagException "
    "MalformedPolicyDocumentException".split()
)
# botocore.exceptions: nothing usable was configured, or it cannot be got at present.
_NO_CREDENTIALS: Final = frozenset(
    "NoCredentialsError PartialCredentialsError ProfileNotFound SSOTokenLoadError "
    "UnauthorizedSSOTokenError NoAuthTokenError LoginRefreshRequired LoginTokenLoadError "
    "UnknownCredentialError RefreshWithMFAUnsupportedError".split()
)
_BAD_OPTIONS: Final = frozenset(
    "ParamValidationError InvalidRegionError NoRegionError UnknownRegionError ConfigParseError "
    "ConfigNotFound InvalidConfigError EndpointProviderError EndpointResolutionError "
    "UnknownEndpointError UnknownFIPSEndpointError EndpointVariantError InvalidRetryModeError "
    "InvalidDefaultsMode InvalidProxiesConfigError InvalidEndpointConfigurationError "
    "MissingDependencyException UnknownServiceError".split()
)


def translate(error: Exception, uri: str, operation: str) -> KMSError:
    """Return our error for what boto3 raised in `operation` (`Sign`, ...) on the key at `uri`."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    details = response.get("Error")
    if isinstance(details, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _from_answer(
            str(details.get("Code", "")), str(details.get("Message", "")), status, uri, operation
        )
    name = type(error).__name__
    if name in _NO_CREDENTIALS:
        return KMSPermissionError(
            f"key {uri}: there are no AWS credentials to call {operation} with ({name}); give the "
            "service a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        )
    if name in _BAD_OPTIONS:
        return KMSConfigError(f"key {uri}: AWS settings cannot be used ({name}: {shown(error)})")
    if name in ("ChecksumError", "FlexibleChecksumError"):
        return KMSIntegrityError(f"key {uri}: the answer to {operation} arrived damaged")
    # Connection refused, cut or timed out, TLS, an answer that is no JSON, credentials that cannot
    # be refreshed just now.
    return KMSUnavailableError(f"key {uri}: {operation} got no usable answer ({name})")


def refuses_credentials(error: Exception) -> bool:
    """Say whether boto3 raised this since our credentials are not accepted, or not there.

    Also where the request's signature is wrong, as with the new id and the old secret of a file
    that was read while it was written.
    """
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    details = response.get("Error")
    if isinstance(details, Mapping):
        return details.get("Code") in _WHO_ARE_YOU | _CLOCK
    return type(error).__name__ in _NO_CREDENTIALS


def is_denied(error: Exception) -> bool:
    """Say whether boto3 raised this since whoever our credentials stand for may not do it."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    details = response.get("Error")
    return isinstance(details, Mapping) and details.get("Code") in _REFUSED


def _from_answer(code: str, message: str, status: int, uri: str, operation: str) -> KMSError:
    """Return our error for an error code of AWS. `message` is shown where it holds no input."""
    arn = uri.removeprefix("aws-kms:").partition("?")[0]
    if code in _THROTTLED or status == 429:
        return KMSThrottledError(f"key {uri}: AWS KMS throttles {operation}", retry_delay_s=0.0)
    if code == "NotFoundException":
        return KMSKeyNotFoundError(
            f"key {uri}: AWS KMS does not know it ({shown(message)}); compare region, account and "
            f"id with: aws kms list-keys --region {arn.split(':')[3]}"
        )
    if code == "DisabledException":
        return disabled(uri, "is disabled")
    if code == "KMSInvalidStateException":
        return disabled(uri, f"cannot be used in its present state ({shown(message)})")
    if code in _REFUSED:
        return KMSPermissionError(
            f"key {uri}: we are not allowed to call {operation} ({shown(message)}); allow "
            f"kms:{operation} on it to the service's identity, in its key policy or by IAM, or put "
            "an identity that may into the credentials file, which is read again within a minute"
        )
    if code in _CLOCK:
        return KMSPermissionError(
            f"key {uri}: AWS rejects the signature of our request ({code}); check the secret key, "
            f"that the endpoint is in the region {arn.split(':')[3]}, and this machine's clock, "
            "which may be five minutes off at most"
        )
    if code in _WHO_ARE_YOU:
        return KMSPermissionError(
            f"key {uri}: AWS does not accept our credentials ({code}); renew them (files are read "
            "again by themselves, variables of the environment take a restart), and check that "
            "they belong to the partition and account of the key"
        )
    if code in _AWAY or status >= 500:
        return KMSUnavailableError(f"key {uri}: AWS KMS failed at {operation} ({code or status})")
    hint = "its usage, key spec or the URI does not fit" if code in _MISFIT else f"HTTP {status}"
    return KMSConfigError(f"key {uri}: AWS KMS refuses {operation} ({code or 'no code'}: {hint})")


def disabled(uri: str, why: str) -> KMSKeyDisabledError:
    """Return the error for a key that does not sign, with the ways to make it sign again."""
    arn = uri.removeprefix("aws-kms:").partition("?")[0]
    return KMSKeyDisabledError(
        f"key {uri}: {why}; to use it again run: aws kms enable-key --key-id {arn} "
        "(after aws kms cancel-key-deletion if it was to be deleted), or rotate to another key"
    )
