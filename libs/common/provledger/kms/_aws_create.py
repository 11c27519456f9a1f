"""Making a key in AWS KMS at most once for each ceremony, whatever answers are lost.

CreateKey takes no token that would make it safe to repeat, so the key carries tags, set in the same
call, and is looked for by them before it is made and after an answer was lost::

    provledger-kid = witness-2        provledger-ceremony = 5b0f...   (16 bytes, hex)

Needs, besides what a signing service needs, kms:CreateKey, kms:TagResource, kms:ListKeys and
kms:ListResourceTags: rights of the operator who rotates, not of the service that signs.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from provledger.kms._aws_client import Client
from provledger.kms.errors import (
    KMSConfigError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSUnavailableError,
)
from provledger.kms.remote import CREATING, Caller, Wanted

KID_TAG: Final = "provledger-kid"
CEREMONY_TAG: Final = "provledger-ceremony"

MAX_KEYS_SEARCHED: Final = 20_000
"""More keys than any region holds by default (quota 100,000, rarely raised from a few thousand)."""

_PAGE: Final = 1000
_PARALLEL: Final = 8
# A key that was just made is not listed at once; AWS speaks of seconds.
_LOOK_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0, 3.0)
_DELETED_STATES: Final = ("PendingDeletion", "PendingReplicaDeletion")


async def find_or_create(
    client: Client, key_usage: str, key_spec: str, wanted: Wanted
) -> tuple[str, bool]:
    """Return the ARN of the ceremony's key, and whether it was there already.

    Raises:
        KMSConfigError: several keys carry its tag. KMSUnavailableError: whether one was made is
            not known; asking again looks for it. Others as `AWSProvider.open_signer`.
    """
    caller = Caller(client.reference.uri, CREATING)
    search = _Search(client, caller, wanted.ceremony.hex())
    arn = await search.find()
    if arn:
        return arn, True
    description = f"provledger {wanted.kid}"

    async def attempt(timeout_s: float) -> str:
        answer = await client.call(
            "CreateKey",
            "create_key",
            KeyUsage=key_usage,
            KeySpec=key_spec,
            Description=description,
            Tags=[
                {"TagKey": KID_TAG, "TagValue": wanted.kid},
                {"TagKey": CEREMONY_TAG, "TagValue": search.ceremony},
            ],
        )
        made: str = answer.get("KeyMetadata", {}).get("Arn", "")
        if not made:
            raise KMSUnavailableError(f"key {client.reference.uri}: the new key was not described")
        return made

    try:
        return await caller.call(attempt, repeatable=False), False
    except KMSUnavailableError as error:
        for delay_s in _LOOK_AGAIN_S:
            await asyncio.sleep(delay_s)
            arn = await search.find()
            if arn:
                return arn, True
        raise KMSUnavailableError(
            f"{error}; whether a key was made is not known: run it again, which looks for one "
            f"tagged {CEREMONY_TAG}={search.ceremony} in {client.reference.region} first"
        ) from None


class _Search:
    """Looks for one tag among the keys of a region; remembers which keys do not have it."""

    def __init__(self, client: Client, caller: Caller, ceremony: str) -> None:
        self.ceremony = ceremony
        self._client = client
        self._caller = caller
        self._others: set[str] = set()

    async def find(self) -> str:
        """The ARN of the key with the tag, "" if there is none."""
        found: list[str] = []
        listed = await self._list()
        for start in range(0, len(listed), _PARALLEL):
            some = listed[start : start + _PARALLEL]
            tagged = await asyncio.gather(*map(self._is_tagged, some))
            found += [arn for arn, ours in zip(some, tagged, strict=True) if ours]
        if len(found) > 1:
            raise KMSConfigError(
                f"several keys are tagged {CEREMONY_TAG}={self.ceremony}: {', '.join(found)}; "
                "schedule all but one for deletion, and run it again"
            )
        return found[0] if found else ""

    async def _list(self) -> list[str]:
        """ARNs of keys not seen before."""
        arns: list[str] = []
        more: dict[str, Any] = {}
        for _ in range(MAX_KEYS_SEARCHED // _PAGE):
            page = await self._ask("ListKeys", "list_keys", Limit=_PAGE, **more)
            arns += [str(each["KeyArn"]) for each in page.get("Keys", ())]
            if not page.get("Truncated"):
                return [arn for arn in arns if arn not in self._others]
            more = {"Marker": page["NextMarker"]}
        raise KMSConfigError(
            f"{self._client.reference.region} holds more than {MAX_KEYS_SEARCHED} keys: too many "
            "to look through; make the new key yourself, and give its URI"
        )

    async def _is_tagged(self, arn: str) -> bool:
        try:
            answer = await self._ask("ListResourceTags", "list_resource_tags", KeyId=arn)
            tags = {each.get("TagKey"): each.get("TagValue") for each in answer.get("Tags", ())}
            if tags.get(CEREMONY_TAG) == self.ceremony:
                return not await self._is_deleted(arn)
        except KMSPermissionError:
            # A key that others keep to themselves is not ours; but our own we must be able to see.
            if arn == self._client.reference.arn:
                raise
        except KMSKeyNotFoundError:
            # Listed by a server that knows it, asked of one that does not yet: next time.
            return False
        self._others.add(arn)
        return False

    async def _is_deleted(self, arn: str) -> bool:
        try:
            described = await self._ask("DescribeKey", "describe_key", KeyId=arn)
        except KMSKeyNotFoundError:
            # So new that not every server knows it.
            return False
        return described.get("KeyMetadata", {}).get("KeyState") in _DELETED_STATES

    async def _ask(self, operation: str, method: str, **parameters: Any) -> Any:
        async def attempt(timeout_s: float) -> Any:
            return await self._client.call(operation, method, **parameters)

        return await self._caller.call(attempt)
