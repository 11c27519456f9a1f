"""What can go wrong with a key management service, told apart by what to do about it::

    KMSError
    ├── KMSThrottledError          over the provider's rate: come back after `retry_delay_s`
    ├── KMSUnavailableError        cannot be reached or timed out: retry
    ├── KMSPermissionError         not allowed, also: a key file that others can read
    ├── KMSKeyNotFoundError        no such key
    ├── KMSKeyExistsError          `create_key` where there is one already
    ├── KMSKeyDisabledError        there, but switched off or about to be destroyed
    ├── KMSIntegrityError          an answer that does not verify, or another key than expected
    └── KMSConfigError             a URI, key or option that cannot be used as it is
        ├── KMSNotInstalledError   a known scheme whose adapter is not in this build
        └── KMSMessageTooLongError longer than the provider takes to sign at once

Messages name the key and the remedy, never key material, passphrases or what was to be signed.
`code`, `reason` and `retry_delay_s` say what such an error is to the caller of a service
(`provledger.rpc.errors`).
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from provledger.errors import KMSError

_ATTRIBUTES: Final = re.compile(r"[?;].*", re.DOTALL)


def bare(uri: str) -> str:
    """A key URI that cannot be used, for messages: without its attributes, in which there may be a
    PIN or a passphrase under any name."""
    return _ATTRIBUTES.sub("...", uri)


class KMSThrottledError(KMSError):
    """The provider limits the rate; `retry_delay_s` is its advice in seconds, or ours."""

    code: ClassVar[str] = "RESOURCE_EXHAUSTED"
    reason: ClassVar[str] = "KMS_THROTTLED"

    def __init__(self, message: str, *, retry_delay_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_delay_s = retry_delay_s


class KMSUnavailableError(KMSError):
    """The provider cannot be reached, or did not answer in time; whether it signed is unknown."""

    code: ClassVar[str] = "UNAVAILABLE"
    reason: ClassVar[str] = "KMS_UNAVAILABLE"
    retry_delay_s: ClassVar[float] = 1.0


class KMSPermissionError(KMSError):
    """We may not use this key, or others may who must not."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "KMS_PERMISSION"


class KMSKeyNotFoundError(KMSError):
    """There is no key under this URI."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "KMS_KEY_NOT_FOUND"


class KMSKeyExistsError(KMSError):
    """There is a key under this URI already; it is never overwritten."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "KMS_KEY_EXISTS"


class KMSKeyDisabledError(KMSError):
    """The key is there but does not sign: disabled, expired or scheduled for destruction."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "KMS_KEY_DISABLED"


class KMSIntegrityError(KMSError):
    """What came back does not verify, or is of another key than was asked for. Raise an alarm."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "KMS_INTEGRITY"


class KMSConfigError(KMSError):
    """A URI, key type or option that cannot be used as it is given."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "KMS_CONFIG"


class KMSNotInstalledError(KMSConfigError):
    """The scheme is one of ours, but this build has no adapter for it; `extra` would bring it."""

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class KMSMessageTooLongError(KMSConfigError):
    """The key is sent whole messages, and its provider takes none as long as this one."""
