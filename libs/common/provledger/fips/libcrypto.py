"""The libcryptos of this process: loading each under its own slot, and asking them directly.

Three can be in one of our processes: Python's own (`hashlib`, `ssl`), the one inside the
`cryptography` wheel, and the one that the `psycopg[binary]` wheel brings for its connections. Each
reads OPENSSL_CONF once, when it is initialised; so `Loader` sets it, lets one library initialise,
and looks into the table of mapped files: the slot's own copy of the provider has to be there now.
A library that maps no copy shares a libcrypto that was loaded before it (as in a distribution's
packages), and is asserted all the same.

Linux only, for /proc. Functions of libcrypto are called as OpenSSL 3 documents them
(OSSL_PROVIDER(3), EVP_default_properties_is_fips_enabled(3), OSSL_PARAM(3)).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger.fips.errors import FIPSAssertionError
from provledger.fips.module import Prepared, Slot

_MAPS: Final = Path("/proc/self/maps")
_LOAD_CONFIG: Final = 0x00000040  # OPENSSL_INIT_LOAD_CONFIG
_INTEGER: Final = 1  # OSSL_PARAM_INTEGER
_UTF8_PTR: Final = 6  # OSSL_PARAM_UTF8_PTR
_VERSION: Final = 0  # OPENSSL_VERSION
_FOREIGN: Final = ("_sodium.", "libsodium.", "blake3.")


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What a libcrypto says of its FIPS provider; `status` is 1 unless a test of it failed."""

    name: str
    version: str
    status: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """One libcrypto of this process.

    user: whose it is, such as "cryptography".
    path: the shared object, or the module it is linked into; None where it is unknown.
    slot: whose copy of the provider it uses.
    """

    user: str
    path: Path | None
    slot: Slot


class Loader:
    """Loads libcryptos one after the other; for one use, before anything else imports them."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self.loaded: list[Loaded] = []

    def load(self, name: str, initialise: Callable[[], None]) -> Loaded:
        """Let `initialise` load and initialise one libcrypto under the slot `name`.

        Raises:
            FIPSAssertionError: afterwards there is no provider for it.
            ImportError: `initialise` raised it.
        """
        slot = self._prepared.slot(name)
        # The first is Python's: it may be there already, under the environment we began with.
        before = mapped_files() if self.loaded else set()
        if slot.module in before:
            raise FIPSAssertionError(f"the copy of the FIPS provider for {name} is in use already")
        os.environ.update(slot.environment())
        try:
            initialise()
        except ImportError:
            raise
        except Exception as error:
            # The libraries differ in what they raise when their provider cannot be loaded.
            raise FIPSAssertionError(
                f"the libcrypto of {name} cannot be used with {slot.configuration} "
                f"({type(error).__name__})"
            ) from None
        after = mapped_files()
        new = sorted(path for path in after - before if _is_libcrypto(path))
        if len(new) > 1:
            raise FIPSAssertionError(f"{name} came with several libcryptos: {_listed(new)}")
        for path in new:
            initialise_library(path)
        found = Loaded(name, new[0] if new else None, slot)
        if slot.module not in mapped_files():
            if new or not self.loaded:
                raise FIPSAssertionError(
                    f"the libcrypto of {name} did not load the FIPS provider, "
                    f"though {slot.configuration} tells it to"
                )
            # It brought no libcrypto and loaded no provider: it shares what is there.
            found = Loaded(name, self.loaded[0].path, self.loaded[0].slot)
        self.loaded.append(found)
        return found

    def spare(self) -> None:
        """Leave the environment pointing at a slot that nobody in this process uses."""
        os.environ.update(self._prepared.slot("spare").environment())


def mapped_files() -> set[Path]:
    """Return the files that are mapped into this process; raises FIPSAssertionError."""
    try:
        lines = _MAPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        raise FIPSAssertionError(f"FIPS mode needs Linux: {_MAPS} cannot be read") from None
    fields = (line.split(maxsplit=5) for line in lines)
    return {Path(field[5]) for field in fields if len(field) == 6 and field[5].startswith("/")}


def unknown_libcryptos(loaded: list[Loaded]) -> list[Path]:
    """Return libcryptos that came into this process behind our back."""
    known = {item.path for item in loaded}
    return sorted(path for path in mapped_files() if _is_libcrypto(path) and path not in known)


def foreign_libraries() -> list[Path]:
    """Return what this process has mapped of other cryptography: libsodium, BLAKE3."""
    return sorted(path for path in mapped_files() if path.name.startswith(_FOREIGN))


def initialise_library(path: Path) -> None:
    """Have a libcrypto read its configuration now; raises FIPSAssertionError if that fails."""
    if _open(path).OPENSSL_init_crypto(ctypes.c_uint64(_LOAD_CONFIG), None) != 1:
        raise FIPSAssertionError(f"{path}: cannot load the configuration of the FIPS provider")


def version(path: Path) -> str:
    """Return what a libcrypto calls itself, such as `OpenSSL 3.5.7 ...`."""
    function = _open(path).OpenSSL_version
    function.restype = ctypes.c_char_p
    return bytes(function(_VERSION)).decode("ascii", "replace")


def provider_info(path: Path) -> ProviderInfo:
    """Ask a libcrypto for its FIPS provider; raises FIPSAssertionError if it has none."""
    library = _open(path)
    provider = _provider(library)
    name, number, status = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_int(0)
    parameters = (_Parameter * 4)(
        _Parameter(b"name", _UTF8_PTR, ctypes.addressof(name), 0, 0),
        _Parameter(b"version", _UTF8_PTR, ctypes.addressof(number), 0, 0),
        _Parameter(b"status", _INTEGER, ctypes.addressof(status), ctypes.sizeof(status), 0),
        _Parameter(None, 0, None, 0, 0),
    )
    if library.OSSL_PROVIDER_get_params(provider, parameters) != 1:
        raise FIPSAssertionError(f"{path}: the FIPS provider does not say what it is")
    return ProviderInfo(
        (name.value or b"").decode("ascii", "replace"),
        (number.value or b"").decode("ascii", "replace"),
        status.value,
    )


def self_test(path: Path) -> None:
    """Have the provider run its own tests again; raises FIPSAssertionError if one fails."""
    library = _open(path)
    if library.OSSL_PROVIDER_self_test(_provider(library)) != 1:
        raise FIPSAssertionError(f"{path}: the FIPS provider fails its own tests")


def is_fips_default(path: Path) -> bool:
    """Whether a libcrypto fetches algorithms with `fips=yes`, from a provider that it has."""
    library = _open(path)
    by_default: int = library.EVP_default_properties_is_fips_enabled(None)
    available: int = library.OSSL_PROVIDER_available(None, b"fips")
    return (by_default, available) == (1, 1)


def fetches_digest(path: Path, name: str) -> bool:
    """Whether a libcrypto gives the digest `name` to who asks for nothing special."""
    library = _open(path)
    library.EVP_MD_fetch.restype = ctypes.c_void_p
    found = library.EVP_MD_fetch(None, name.encode("ascii"), None)
    if found:
        library.EVP_MD_free(ctypes.c_void_p(found))
    library.ERR_clear_error()
    return bool(found)


class _Parameter(ctypes.Structure):
    """OSSL_PARAM."""

    _fields_: Final = [  # type: ignore[misc]
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    ]


def _provider(library: ctypes.CDLL) -> ctypes.c_void_p:
    """A handle of the FIPS provider, which is kept: modules are never unloaded here."""
    if library.OSSL_PROVIDER_available(None, b"fips") != 1:
        raise FIPSAssertionError(f"{library._name}: has no FIPS provider")
    library.OSSL_PROVIDER_try_load.restype = ctypes.c_void_p
    handle = library.OSSL_PROVIDER_try_load(None, b"fips", 1)
    if not handle:
        raise FIPSAssertionError(f"{library._name}: its FIPS provider cannot be loaded")
    return ctypes.c_void_p(handle)


def _open(path: Path) -> ctypes.CDLL:
    """The library as it is in this process: dlopen gives the one that is mapped already."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        raise FIPSAssertionError(f"{path}: is mapped, but cannot be opened") from None


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _is_libcrypto(path: Path) -> bool:
    return path.name.startswith(("libcrypto.so", "libcrypto-"))
