"""How much room the JWK Set has left, of which every key takes some for good.

A checkpoint key takes as much as there are logs: its ranges name each of them. Nothing is ever
taken out of the set, so a rotation is refused while there is still room for what must never be:
that keys are retired, revoked, and replaced because they are.
"""

from __future__ import annotations

from typing import Final

from keys_svc.registry import Registry
from provledger import logs
from provledger.errors import FailedPreconditionError
from provledger.keyset import MAX_JWKS_BYTES

log = logs.get(__name__)

ROTATED_BYTES: Final = MAX_JWKS_BYTES * 4 // 5
"""No key is rotated in beyond this. A key takes at most two events of 256 KiB, a revocation some
25 KB, so that what is left is enough for more than a hundred revocations. But an active key is
revoked only with a replacement, which stays in the set as well: of checkpoint keys at 1,000 logs,
which take some 100 KB each, there is room for 25 of those."""
WARNED_BYTES: Final = MAX_JWKS_BYTES // 2


def check_rotation(known: Registry, changed: Registry, now_ns: int) -> None:
    """Return unless the JWK Set is too large for one more key; warn where it will be.

    known, changed: before the rotation, and as it would make it; the same where it did so before.

    Raises:
        FailedPreconditionError: TOO_MANY_KEYS.
    """
    if changed is known:
        return
    size = len(known.key_set(now_ns).encode())
    if size > ROTATED_BYTES:
        raise FailedPreconditionError(
            "TOO_MANY_KEYS",
            f"the JWK Set has {size} bytes, and no key is rotated in beyond {ROTATED_BYTES}: "
            f"verifiers read {MAX_JWKS_BYTES}, and the rest is kept for revocations",
            metadata={"bytes": str(size), "limit": str(ROTATED_BYTES)},
        )
    if size > WARNED_BYTES:
        log.warning("keys.jwks_large", bytes=size, limit=ROTATED_BYTES)


def encode_key_set(registry: Registry, now_ns: int) -> bytes:
    """The JWK Set of a registry; raises FailedPreconditionError (TOO_MANY_KEYS).

    One that verifiers refuse is not given out: it would take the place of one that they read.
    """
    data = registry.key_set(now_ns).encode()
    if len(data) >= MAX_JWKS_BYTES:  # a file of it ends with a line feed
        raise FailedPreconditionError(
            "TOO_MANY_KEYS",
            f"the JWK Set has {len(data)} bytes, and verifiers read {MAX_JWKS_BYTES}: have them "
            "verify with --pin",
            metadata={"bytes": str(len(data)), "limit": str(MAX_JWKS_BYTES)},
        )
    return data
