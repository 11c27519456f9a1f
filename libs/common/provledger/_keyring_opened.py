"""The keys that a key ring has opened: each of them once, however many ask for it at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from provledger import logs
from provledger.errors import KMSError
from provledger.fips import policy
from provledger.keyset import VerificationKey
from provledger.kms import Signer
from provledger.kms.errors import KMSConfigError, KMSUnavailableError
from provledger.kms.signing import self_test

log = logs.get(__name__)

DEVELOPMENT_ENV: Final = "PROVLEDGER_DEVELOPMENT"
"""1 where keys in files are meant to be: no warning of them."""

OPEN_TIMEOUT_S: Final = 10.0
"""A provider that takes longer to open or try a key counts as away."""


def opened_as(key: VerificationKey, uri: str) -> tuple[str, bytes]:
    """What an opened key is known by: a kid alone may stand for another key, or one elsewhere, in a
    registry that was put in place of the one before."""
    return uri, key.thumbprint


class OpenedKeys(Mapping[tuple[str, bytes], Signer]):
    """Signers as `opened_as` says. Kept until `close`: a signature may be in the making when a key
    is replaced.

    Belongs to one event loop.
    """

    def __init__(self, open_signer: Callable[[str], Awaitable[Signer]]) -> None:
        self._open_signer = open_signer
        self._opened: dict[tuple[str, bytes], Signer] = {}
        # While they are being opened. A task of its own each: whoever asked first may
        # give up while others still wait for it.
        self._opening: dict[tuple[str, bytes], asyncio.Task[Signer]] = {}

    def __getitem__(self, name: tuple[str, bytes]) -> Signer:
        """Return an opened key."""
        return self._opened[name]

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Go through what they are known by."""
        return iter(self._opened)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._opened)

    async def open(self, key: VerificationKey, uri: str) -> Signer:
        """Return the signer of a key, opened and tried if that was not done before.

        Raises a subclass of KMSError, and what else an adapter lets through.
        """
        kid, name = key.kid, opened_as(key, uri)
        if name in self._opened:
            return self._opened[name]
        if name not in self._opening:
            task = asyncio.create_task(self._open(key, uri), name=f"keyring-open-{kid}")
            task.add_done_callback(lambda task: self._keep(name, task))
            self._opening[name] = task
        task = self._opening[name]
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and current is not None and not current.cancelling():
                raise KMSUnavailableError(f"kid {kid}: this service is ending") from None
            raise

    async def close(self) -> None:
        """Release all keys."""
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for name in list(self._opened):
            with suppress(KMSError):
                await self._opened.pop(name).close()

    def _keep(self, name: tuple[str, bytes], task: asyncio.Task[Signer]) -> None:
        del self._opening[name]
        # Asking for the exception also says that it is known, where nobody waits any more.
        if not task.cancelled() and task.exception() is None:
            self._opened[name] = task.result()

    async def _open(self, key: VerificationKey, uri: str) -> Signer:
        """Open a key and try it once against the registered public half."""
        if uri.startswith("local:") and os.environ.get(DEVELOPMENT_ENV) != "1":
            log.warning(
                "keyring.local_key",
                kid=key.kid,
                advice="whoever reads the key file can sign as this key, for ever after; use a key "
                f"service or a token, or set {DEVELOPMENT_ENV}=1 where that does not matter",
            )
        if key.algorithm.experimental:
            log.warning("keyring.experimental_algorithm", kid=key.kid, algorithm=key.algorithm)
        try:
            policy.check_signing_key(key.algorithm, key.purpose)
        except policy.FIPSRefusedError as error:
            raise KMSConfigError(f"kid {key.kid}: {error}") from None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                signer = await self._open_signer(uri)
                try:
                    await self_test(signer, key.public_key)
                except BaseException:
                    await signer.close()
                    raise
                return signer
        except TimeoutError:
            raise KMSUnavailableError(f"opening the key took over {OPEN_TIMEOUT_S} s") from None
