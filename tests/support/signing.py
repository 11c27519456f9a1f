"""Keys of providers that answer after a while."""

from __future__ import annotations

import asyncio

from provledger.jwk import verify_signature
from provledger.kms.errors import KMSUnavailableError
from provledger.kms.remote import RemoteSigner


async def until_signed(signer: RemoteSigner, message: bytes) -> None:
    """Sign until it works, however long that takes on a slow machine, and check the signature."""
    async with asyncio.timeout(30):
        while True:
            try:
                verify_signature(signer.public_key, await signer.sign(message), message)
                return
            except KMSUnavailableError:
                await asyncio.sleep(0.02)
