from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from provledger import hashing
from provledger.errors import InputError


def test_sha256_is_the_standard_one() -> None:
    assert hashing.sha256(b"abc") == hashlib.sha256(b"abc").digest()


def test_blake3_of_nothing_is_as_published() -> None:
    assert hashing.blake3(b"").hex() == (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )


def test_suites_hold_to_the_design() -> None:
    assert {name: (s.H, s.tree) for name, s in hashing.SUITES.items()} == {
        "blake3": (hashing.blake3, hashing.sha256),
        "blake3-all": (hashing.blake3, hashing.blake3),
        "fips": (hashing.sha256, hashing.sha256),
    }
    assert all(hashing.suite(name).name == name for name in hashing.SUITES)
    assert hashing.DEFAULT_SUITE in hashing.SUITES


@pytest.mark.parametrize("name", ["", "BLAKE3", "sha256", None, 1, ["fips"]])
def test_unknown_suites_are_refused(name: object) -> None:
    with pytest.raises(InputError):
        hashing.suite(name)  # type: ignore[arg-type]


def test_foreign_hashers_have_no_constructor() -> None:
    assert hashing.constructor_of(hashing.sha256) is not None
    assert hashing.constructor_of(hashing.blake3) is not None
    assert hashing.constructor_of(lambda data: hashing.sha256(b"x" + data)) is None


def test_the_fips_suite_never_loads_blake3() -> None:
    """A process in FIPS mode must not have it in memory at all."""
    code = (
        "import sys; from provledger import hashing, merkle; s = hashing.suite('fips');"
        "s.H(b''); merkle.root([b'a', b'b'], s.tree); sys.exit('blake3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
