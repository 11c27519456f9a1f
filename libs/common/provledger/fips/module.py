"""The FIPS provider as a file: where it is, and private copies of it that are ready to be loaded.

Two libcryptos of one process must not share one `fips.so`: the second would overwrite what the
first one gave to the module's static variables. So `prepare` makes a *slot* for each::

    <base>/<name of the module>/python/        fips.so  fipsmodule.cnf  openssl.cnf
    <base>/<name of the module>/cryptography/  ...

`fipsmodule.cnf` comes from `openssl fipsinstall`, which runs the module's own tests. Its lines
`install-*` would make the module skip them at the next start, so they are left out. `openssl.cnf`
loads the provider by its full path and makes `fips=yes` the default of whatever is fetched.

Follows fips_module(7), fips_config(5) and config(5) of OpenSSL 3. The slots are kept between
starts and are checked at each: the copy must be the installed module, the text ours, the owner us.
Trust: whoever can write there is us or root, and could change this process as well. The module
checks itself too, with the MAC that `fipsinstall` wrote.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger.fips.errors import FIPSConfigError

MODULE_ENV: Final = "PROVLEDGER_FIPS_MODULE"
"""Path of fips.so, where it is not in OpenSSL's own directory of modules."""

DIR_ENV: Final = "PROVLEDGER_FIPS_DIR"
"""Where the slots are made; must allow executing. Default: a directory of ours under TMPDIR."""

SLOTS: Final = ("python", "cryptography", "psycopg", "spare")
"""One for each libcrypto we know of. `spare` is for child processes and for whoever comes late."""

INSTALL: Final = (
    "install it with: apt-get install openssl openssl-provider-fips (Debian 13; for others see "
    f"docs/fips.md), or set {MODULE_ENV} to the path of fips.so"
)

_FORMAT: Final = "v1"
_MAX_MODULE_BYTES: Final = 64 * 1024 * 1024
_OPENSSL_TIMEOUT_S: Final = 60.0

_CONFIGURATION: Final = """\
# Made by provledger.fips.module; do not edit, it is checked at each start.
# Without this line a mistake below would be passed over, and nothing would be in FIPS mode.
config_diagnostics = 1
openssl_conf = provledger_init
.include {slot}/fipsmodule.cnf

[provledger_init]
providers = provledger_providers
alg_section = provledger_algorithms

[provledger_providers]
fips = fips_sect
base = base_sect

[fips_sect]
module = {slot}/fips.so

[base_sect]
activate = 1

[provledger_algorithms]
default_properties = fips=yes
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A private copy of the provider with its configuration."""

    name: str
    path: Path

    @property
    def module(self) -> Path:
        """The copy of fips.so."""
        return self.path / "fips.so"

    @property
    def configuration(self) -> Path:
        """The openssl.cnf that loads it."""
        return self.path / "openssl.cnf"

    def environment(self) -> dict[str, str]:
        """What makes a libcrypto that is initialised now use this slot."""
        return {
            "OPENSSL_CONF": str(self.configuration),
            "OPENSSL_MODULES": str(self.path),
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """The slots of one module; `path` holds them all."""

    path: Path

    def slot(self, name: str) -> Slot:
        """One of `SLOTS`."""
        return Slot(name, self.path / name)


def find_module(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the installed fips.so; raises FIPSConfigError with how to install it."""
    environ = os.environ if environ is None else environ
    given = environ.get(MODULE_ENV, "")
    if given:
        if not os.path.isfile(given):
            raise FIPSConfigError(f"{MODULE_ENV}: {given} is not a file; {INSTALL}")
        return Path(given).resolve()
    said = run_openssl("version", "-m")
    found = re.search(r'MODULESDIR: "([^"]+)"', said)
    if found is not None and os.path.isfile(module := Path(found[1]) / "fips.so"):
        return module.resolve()
    where = f"no fips.so in {found[1]}" if found else "OpenSSL names no directory of modules"
    raise FIPSConfigError(f"the OpenSSL FIPS provider is not installed ({where}); {INSTALL}")


def prepare(module: Path, base: Path | None = None) -> Prepared:
    """Make the slots for `module`, or check those of an earlier start.

    Raises:
        FIPSConfigError: the directory is not safe to use, `fipsinstall` is missing, or the module
            fails its own tests there.
    """
    directory = _private_directory(base)
    data = _read(module)
    # A name, not a check: contents are compared byte by byte. A hash of OpenSSL's is not used here,
    # since the environment may come from a process in FIPS mode whose slots are gone by now.
    prepared = Prepared(directory / f"{_FORMAT}-{len(data):x}-{zlib.crc32(data):08x}")
    if not _is_sound(prepared, data):
        _make(prepared, data)
        if not _is_sound(prepared, data):
            raise FIPSConfigError(f"{prepared.path} changes while it is made; remove it")
    return prepared


def run_openssl(*arguments: str) -> str:
    """Run the openssl command without any configuration, and return what it said.

    Raises:
        FIPSConfigError: it is not installed, or it fails; what it says follows.
    """
    # A configuration of the operator's, FIPS or not, is none of its business here.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OPENSSL_")}
    try:
        done = subprocess.run(
            ["openssl", *arguments],
            env={**environ, "OPENSSL_CONF": os.devnull},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_OPENSSL_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise FIPSConfigError(f"the command openssl is not installed; {INSTALL}") from None
    except subprocess.TimeoutExpired:
        raise FIPSConfigError(f"openssl {arguments[0]} did not end in time") from None
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise FIPSConfigError(f"openssl {arguments[0]} failed: {' '.join(said.split())[-600:]}")
    return said


def _private_directory(base: Path | None) -> Path:
    """Return the directory for slots, made if need be; nobody else may write there."""
    if base is None:
        given = os.environ.get(DIR_ENV, "")
        # Under TMPDIR, which a container with a read-only root must have as well.
        default = Path(tempfile.gettempdir()) / f"provledger-fips-{os.geteuid()}"
        base = Path(given) if given else default
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise FIPSConfigError(
            f"{base}: cannot be made ({error.strerror}); set {DIR_ENV} to a directory of ours"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise FIPSConfigError(f"{base}: is not a directory of ours; set {DIR_ENV} to another one")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise FIPSConfigError(f"{base}: others may write there; run: chmod 700 {base}")
    # The kernel lists mapped files by their real path, and that is what we compare with.
    base = base.resolve()
    if re.fullmatch(r"[A-Za-z0-9._/+-]+", str(base)) is None:
        # OpenSSL's configuration files give `$` and others a meaning.
        raise FIPSConfigError(f"{base}: has special characters; set {DIR_ENV} to a plain path")
    return base


def _read(module: Path) -> bytes:
    try:
        with module.open("rb") as file:
            data = file.read(_MAX_MODULE_BYTES + 1)
    except OSError as error:
        raise FIPSConfigError(f"{module}: cannot be read: {error.strerror}") from None
    if not data or len(data) > _MAX_MODULE_BYTES:
        raise FIPSConfigError(f"{module}: is not a provider module")
    return data


def _make(prepared: Prepared, data: bytes) -> None:
    """Make all slots beside their place, then put them there in one step."""
    scratch = prepared.path.with_name(f".{prepared.path.name}.{secrets.token_hex(8)}")
    try:
        scratch.mkdir(mode=0o700)
        for name in SLOTS:
            made, final = Slot(name, scratch / name), prepared.slot(name)
            made.path.mkdir(mode=0o700)
            _write(made.module, data)
            _write(made.path / "fipsmodule.cnf", _module_configuration(made).encode())
            _write(made.configuration, _CONFIGURATION.format(slot=final.path).encode())
        _replace(scratch, prepared.path, data)
    except OSError as error:
        raise FIPSConfigError(
            f"{prepared.path}: the copies of the FIPS provider cannot be made there "
            f"({error.strerror}); set {DIR_ENV} to a directory with {4 * len(data) >> 20} MiB free"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(scratch: Path, final: Path, data: bytes) -> None:
    """Move new slots to their place. Another service that starts now may have been faster."""
    for _ in range(3):
        try:
            os.rename(scratch, final)
            return
        except OSError:
            if _is_sound(Prepared(final), data):
                return
            # What is there is damaged: aside with it, in one step, too.
            aside = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
            os.rename(final, aside)
            shutil.rmtree(aside, ignore_errors=True)
    raise FIPSConfigError(f"{final} cannot be replaced; remove it")


def _module_configuration(slot: Slot) -> str:
    """Run the module's own tests on a copy and return its configuration, tests never skipped."""
    out = slot.path / ".fipsinstall.cnf"
    run_openssl(
        *("fipsinstall", "-quiet", "-module", str(slot.module), "-out", str(out)),
        *("-provider_name", "fips", "-section_name", "fips_sect", "-self_test_onload"),
    )
    text = out.read_text("utf-8")
    out.unlink()
    # `install-version` is harmless; the other two say that the tests were passed once already.
    lines = [line for line in text.splitlines() if not _skips_tests(line)]
    return "\n".join(lines) + "\n"


def _skips_tests(line: str) -> bool:
    return line.strip().startswith(("install-mac", "install-status"))


def _is_sound(prepared: Prepared, data: bytes) -> bool:
    """Whether all slots are there, ours alone, and say what we wrote."""
    try:
        for name in SLOTS:
            slot = prepared.slot(name)
            for path in (prepared.path, slot.path, *slot.path.iterdir()):
                status = path.lstat()
                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
                    return False
            text = (slot.path / "fipsmodule.cnf").read_text("utf-8")
            lines = text.splitlines()
            if "activate = 1" not in lines or any(_skips_tests(line) for line in lines):
                return False
            if not any(line.startswith("module-mac = ") for line in lines):
                return False
            expected = _CONFIGURATION.format(slot=slot.path)
            if slot.configuration.read_text("utf-8") != expected:
                return False
            if slot.module.read_bytes() != data:
                return False
    except (OSError, UnicodeDecodeError):
        return False
    return True
