"""Making a version of a key in Cloud KMS at most once for each ceremony, whatever is lost.

CreateCryptoKeyVersion takes no token that would make it safe to repeat, and versions carry no
label. So the ceremony is written down at the key first, in labels, together with the number of its
newest version; Google numbers versions upwards and reuses no number::

    provledger-ceremony = 5b0f...   (16 bytes, hex)        provledger-after = 7

A version above that number was made after the ceremony began. Only such a one is adopted when the
same ceremony is tried again; whatever was there before belongs to somebody else, registered or not.
Another ceremony on the same key takes the labels over: what the first one left is then nobody's.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from provledger.kms._gcp_client import SCHEME, Reference, translate
from provledger.kms.errors import KMSConfigError, KMSUnavailableError
from provledger.kms.remote import Caller, Wanted

CEREMONY_LABEL: Final = "provledger-ceremony"
AFTER_LABEL: Final = "provledger-after"

_PAGE: Final = 1000
# What was just made is listed at once, as Google promises; a lost request may still be on its way.
_LOOK_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0)
_USABLE_STATES: Final = frozenset("ENABLED PENDING_GENERATION".split())


class Client(Protocol):
    """What is needed of the adapter's client."""

    reference: Reference
    kms: Any

    async def call(self, method: str, function: str, request: Any, timeout_s: float) -> Any:
        """Call once; raises a subclass of KMSError."""


class Ceremony:
    """One attempt at making the version that a rotation asks for."""

    def __init__(self, client: Client, wanted: Wanted, caller: Caller) -> None:
        self._client = client
        self._wanted = wanted
        self._caller = caller
        self._parent = client.reference.parent
        self._after = 0

    async def find_or_create(self, expected: str) -> tuple[str, bool]:
        """Return the name of the ceremony's version, and whether it was there already.

        `expected` is the algorithm that new versions must have, in Google's words.

        Raises:
            KMSConfigError: the key's template is for another one, or several versions are newer.
            KMSUnavailableError: whether one was made is not known; asking again looks for it.
        """
        key = await self._caller.call(self._get_key)
        kind = str(getattr(key.version_template.algorithm, "name", key.version_template.algorithm))
        if kind != expected:
            raise KMSConfigError(
                f"key {self._client.reference.uri}: new versions of its key are of algorithm "
                f"{kind}, not {expected}; make another key with --default-algorithm for {expected}"
            )
        if await self._is_begun(key):
            name = await self._find()
            if name:
                return name, True
        try:
            return await self._caller.call(self._create, repeatable=False), False
        except KMSUnavailableError as error:
            for delay_s in _LOOK_AGAIN_S:
                await asyncio.sleep(delay_s)
                name = await self._find()
                if name:
                    return name, True
            raise KMSUnavailableError(
                f"{error}; whether a version was made is not known: run it again, which looks for "
                f"one first, or see: gcloud kms keys versions list --key={self._parent}"
            ) from None

    async def _is_begun(self, key: Any) -> bool:
        """Whether an earlier attempt wrote the ceremony down; write it down otherwise."""
        labels = dict(key.labels)
        after = labels.get(AFTER_LABEL, "")
        if labels.get(CEREMONY_LABEL) == self._wanted.ceremony.hex() and after.isdigit():
            self._after = int(after)
            return True
        versions = await self._caller.call(self._list)
        self._after = max((_number(name) for name, _ in versions), default=0)
        labels |= {
            CEREMONY_LABEL: self._wanted.ceremony.hex(),
            AFTER_LABEL: str(self._after),
        }

        async def attempt(timeout_s: float) -> None:
            request = self._client.kms.UpdateCryptoKeyRequest(
                crypto_key=self._client.kms.CryptoKey(name=self._parent, labels=labels),
                update_mask={"paths": ["labels"]},
            )
            await self._client.call("UpdateCryptoKey", "update_crypto_key", request, timeout_s)

        await self._caller.call(attempt)
        return False

    async def _find(self) -> str:
        """The name of the version made since the ceremony began, "" if there is none."""
        found = [
            name
            for name, state in await self._caller.call(self._list)
            if _number(name) > self._after
            and state in _USABLE_STATES
            and SCHEME + name not in self._wanted.known
        ]
        if len(found) > 1:
            raise KMSConfigError(
                f"key {self._client.reference.uri}: several versions of its key were made since "
                f"this rotation began: {', '.join(found)}; destroy those that are not meant, or "
                "give the URI of the one that is"
            )
        return found[0] if found else ""

    async def _get_key(self, timeout_s: float) -> Any:
        request = self._client.kms.GetCryptoKeyRequest(name=self._parent)
        return await self._client.call("GetCryptoKey", "get_crypto_key", request, timeout_s)

    async def _list(self, timeout_s: float) -> list[tuple[str, str]]:
        """Names of all versions, with their states."""
        request = self._client.kms.ListCryptoKeyVersionsRequest(
            parent=self._parent, page_size=_PAGE
        )
        method = "ListCryptoKeyVersions"
        pages = await self._client.call(method, "list_crypto_key_versions", request, timeout_s)
        try:
            return [
                (each.name, str(getattr(each.state, "name", each.state))) async for each in pages
            ]
        except Exception as error:
            raise translate(error, self._client.reference.uri, method) from None

    async def _create(self, timeout_s: float) -> str:
        kms = self._client.kms
        request = kms.CreateCryptoKeyVersionRequest(
            parent=self._parent,
            crypto_key_version=kms.CryptoKeyVersion(
                state=kms.CryptoKeyVersion.CryptoKeyVersionState.ENABLED
            ),
        )
        version = await self._client.call(
            "CreateCryptoKeyVersion", "create_crypto_key_version", request, timeout_s
        )
        name: str = version.name
        return name


def _number(version: str) -> int:
    return int(version.rpartition("/")[2])
