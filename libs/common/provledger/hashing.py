"""The hash functions and the suites that combine them (design §4, "Suites").

A *hasher* maps bytes to 32 bytes. A *suite* says which hasher makes statements and entries (`H`)
and which makes the log's Merkle tree (`tree`). Everything that is not named by a suite, such as
field digests, is SHA-256 everywhere.

BLAKE3 is imported on its first use only, and in FIPS mode it is refused there
(`provledger.fips.policy`), whichever way it was come by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Protocol, TypeAlias

from provledger.errors import InputError
from provledger.fips import policy

HASH_BYTES = 32
"""Length of every digest made or accepted by this project."""

Hasher: TypeAlias = Callable[[bytes], bytes]
"""Bytes to a digest of 32 bytes; pure, and safe to call from any thread."""


class HashState(Protocol):
    """What `hashlib` and `blake3` constructors return, as far as we use it."""

    def digest(self) -> bytes: ...


HashConstructor: TypeAlias = Callable[[bytes], HashState]

_new_sha256 = hashlib.sha256


def sha256(data: bytes) -> bytes:
    """SHA-256 (FIPS 180-4) of `data`, 32 bytes."""
    return _new_sha256(data).digest()


def blake3(data: bytes) -> bytes:
    """BLAKE3 of `data` with its default output of 32 bytes."""
    return _blake3_constructor()(data).digest()


@cache
def _blake3_constructor() -> HashConstructor:
    policy.check_primitive("BLAKE3")
    from blake3 import blake3 as constructor

    return constructor


def constructor_of(hasher: Hasher) -> HashConstructor | None:
    """The constructor behind one of our hashers, or None for a foreign one.

    Loops over thousands of short inputs call it directly: one Python frame less for each hash.
    """
    if hasher is sha256:
        return _new_sha256
    if hasher is blake3:
        return _blake3_constructor()
    return None


@dataclass(frozen=True, slots=True)
class Suite:
    """The hash functions of one ledger and its log; fixed when the ledger is created.

    `H` hashes statements and entries, `tree` the leaves and nodes of the log.
    """

    name: str
    H: Hasher
    tree: Hasher


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "blake3": Suite("blake3", blake3, sha256),
        # No outside tool can check a BLAKE3 tree: C2SP fixes SHA-256.
        "blake3-all": Suite("blake3-all", blake3, blake3),
        "fips": Suite("fips", sha256, sha256),
    }
)
"""Every suite by its name."""

DEFAULT_SUITE = "blake3"


def suite(name: str) -> Suite:
    """The suite called `name`. Raises InputError for one we do not know, or FIPS mode refuses."""
    found = SUITES.get(name) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"unknown suite; known are {', '.join(SUITES)}")
    policy.check_suite(name)
    return found
