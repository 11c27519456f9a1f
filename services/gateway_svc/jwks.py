"""The public keys, from the keys service: asked once for all who ask at the same time, and who are
told together if it does not answer.

What came back is kept for a few seconds and never longer: a key set that is out of date may hold a
key that was revoked, so that none is better (503) than an old one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway_svc.keeping import Failure, Once, in_time
from provledger import note
from provledger.errors import KeyFormatError, NoteError, NotFoundError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """A JWK Set as the keys service wrote it, and its strong entity tag."""

    data: bytes
    etag: str

    def vkeys(self, signed: bytes, origin: str) -> list[str]:
        """Verifier keys of the log's signatures on a checkpoint, as far as we know them.

        Named, not verified: nobody should take them from here.
        """
        try:
            vkeys = [key.vkey(origin) for key in _checkpoint_keys(self.data)]
            lines = {(line.name, line.note_key_id) for line in note.parse(signed).signatures}
        except (KeyFormatError, NoteError):
            return []
        known = [(vkey, note.parse_vkey(vkey)) for vkey in vkeys]
        return [vkey for vkey, key in known if (key.name, key.note_key_id) in lines]


@lru_cache(maxsize=2)
def _checkpoint_keys(jwks: bytes) -> Sequence[VerificationKey]:
    # There may be thousands of logs, all of which have the same ones.
    return KeySet.parse(jwks).for_purpose(KeyPurpose.CHECKPOINT)


class Jwks:
    """The JWK Set of now. Belongs to one event loop.

    fetch: asks the keys service, with a deadline; None where there is none.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]] | None,
        *,
        max_age_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._once: Once[None, None] = Once()
        self._failure = Failure(max_age_s, monotonic)
        self._kept: tuple[float, KeyDocument] | None = None

    async def get(self) -> KeyDocument:
        """The key set. Who gives up does not take it away from the others.

        Raises:
            NotFoundError: no keys service is configured. StatusError: it does not answer.
        """
        fetch = self._fetch
        if fetch is None:
            raise NotFoundError("JWKS_NOT_SERVED", "this gateway knows no keys service")
        asked_s = self._monotonic()
        # An answer to a question put after ours is as good as one of our own.
        while self._kept is None or asked_s - self._kept[0] > self._max_age_s:
            self._failure.check(asked_s)
            await self._once.do(None, lambda: self._ask(fetch))
        return self._kept[1]

    async def _ask(self, fetch: Callable[[], Awaitable[bytes]]) -> None:
        begun_s = self._monotonic()
        with self._failure.kept(), in_time("UNAVAILABLE", "the keys service"):
            data = await fetch()
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        self._kept = (begun_s, KeyDocument(data, etag))
