"""The first code of a process in FIPS mode: load, assert, test, then run the service.

`python -m provledger.fips.boot SLOTS MODULE [ARGUMENT ...]`, as `provledger.fips.launch` executes
it. Nothing that uses cryptography may be imported before it says so: that includes every module of
ours that does. Exit status 2 where FIPS mode cannot be had, 1 where a test failed; in both cases
the service was never imported.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provledger.errors import ProvledgerError
from provledger.fips import policy
from provledger.fips.assertions import (
    Evidence,
    assert_cryptography,
    assert_library,
    assert_python,
)
from provledger.fips.errors import FIPSAssertionError, FIPSConfigError, FIPSSelfTestError
from provledger.fips.libcrypto import Loaded, Loader, foreign_libraries, unknown_libcryptos
from provledger.fips.module import Prepared

if TYPE_CHECKING:
    from provledger.fips.selftest import Result

_TOO_EARLY = ("cryptography", "psycopg", "grpc", "blake3")


@dataclass(frozen=True, slots=True)
class Booted:
    """What was found out while this process started, for its log and for `fips status`."""

    loaded: tuple[Loaded, ...]
    evidence: tuple[Evidence, ...]
    tests: tuple[Result, ...]
    ed25519_approved: bool
    falsify_pairwise: bool = False


class _Report:
    booted: Booted | None = None


def report() -> Booted | None:
    """What `boot` found out; None outside FIPS mode."""
    # `python -m` runs a second copy of this module, under the name __main__.
    return _Report.booted


def boot(prepared: Prepared, environ: Mapping[str, str]) -> Booted:
    """Bring this process into FIPS mode.

    Raises:
        FIPSAssertionError: a libcrypto does not use the provider.
        FIPSSelfTestError: a test gave a wrong answer.
        FIPSConfigError: PROVLEDGER_FIPS_FAIL_KAT names no test.
    """
    early = [name for name in _TOO_EARLY if name in sys.modules]
    if early:
        raise FIPSAssertionError(f"imported before FIPS mode was on: {', '.join(early)}")
    loader = Loader(prepared)
    evidence = [assert_python(loader.load("python", _load_python))]
    evidence.append(assert_cryptography(loader.load("cryptography", _load_cryptography)))
    if _has_psycopg(loader):
        evidence.append(assert_library(loader.loaded[-1]))
    loader.spare()
    assert_no_strangers(loader.loaded)
    booted = _test(loader, evidence, environ)
    assert_no_strangers(loader.loaded)
    policy.activate(
        ed25519_approved=booted.ed25519_approved, falsify_pairwise=booted.falsify_pairwise
    )
    _Report.booted = booted
    return booted


def assert_no_strangers(loaded: Sequence[Loaded]) -> None:
    """Raise FIPSAssertionError for a libcrypto that nobody has asserted anything about.

    Or for another library of cryptography, which is outside of every module.
    """
    strangers = unknown_libcryptos(list(loaded))
    if strangers:
        raise FIPSAssertionError(
            f"a libcrypto was loaded that is not known here: {', '.join(map(str, strangers))}"
        )
    foreign = foreign_libraries()
    if foreign:
        raise FIPSAssertionError(
            f"loaded, and no part of the module: {', '.join(map(str, foreign))}"
        )


def _load_python() -> None:
    try:
        import _hashlib
        import ssl
    except ImportError as error:
        raise FIPSAssertionError(f"this Python has no OpenSSL that works: {error}") from None

    _hashlib.openssl_sha256(b"")
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _load_cryptography() -> None:
    from cryptography.hazmat.bindings._rust import openssl

    openssl.openssl_version_text()


def _has_psycopg(loader: Loader) -> bool:
    """Load psycopg's libcrypto, if there is a psycopg; whether there is.

    One that cannot be imported now and can later is found by `assert_no_strangers`.
    """

    def load() -> None:
        import psycopg.pq

        psycopg.pq.version()

    try:
        loader.load("psycopg", load)
    except ImportError:
        return False
    return True


def _test(loader: Loader, evidence: list[Evidence], environ: Mapping[str, str]) -> Booted:
    # Only now: it imports cryptography.
    from provledger.fips import selftest

    fail = environ.get(selftest.FAIL_ENV, "")
    selftest.check_fail(fail)
    tests = selftest.run(fail)
    approved = selftest.ed25519_approved(fail)
    if approved:
        tests.append(selftest.Result("ed25519", "cryptography"))
    return Booted(
        tuple(loader.loaded), tuple(evidence), tuple(tests), approved, fail == selftest.PAIRWISE
    )


def main() -> None:
    """Entry point, executed by `provledger.fips.launch`."""
    if len(sys.argv) < 3:
        sys.exit("provledger.fips.boot is started by python -m provledger.fips.launch MODULE")
    slots, name, *arguments = sys.argv[1:]
    try:
        boot(Prepared(Path(slots)), os.environ)
    except FIPSConfigError as error:
        sys.exit(_complain(name, error, 2))
    except FIPSAssertionError as error:
        sys.exit(_complain(name, error, 2))
    except FIPSSelfTestError as error:
        sys.exit(_complain(name, error, 1))
    sys.argv = [name, *arguments]
    # As `python -m name` would, with this process's libcryptos as they are now.
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _complain(name: str, error: ProvledgerError, status: int) -> int:
    sys.stderr.write(f"provledger {name}: FIPS mode: {error}; the service does not start\n")
    return status


if __name__ == "__main__":
    # The copy that others import holds the report and the policy, so it does the work.
    from provledger.fips.boot import main as imported_main

    imported_main()
