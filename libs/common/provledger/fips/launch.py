"""Starting a service in FIPS mode: `python -m provledger.fips.launch MODULE [ARGUMENT ...]`.

A libcrypto reads its configuration once, when it is initialised, and without one it goes on outside
of FIPS mode without a word. So whether FIPS mode is on is decided before Python starts: the slots
are prepared (`provledger.fips.module`), the environment is set, and this process is replaced by
`provledger.fips.boot`, which asserts everything and then runs MODULE. Process id, descriptors and
arguments stay as they are, so that a supervisor notices nothing.

A service that was started directly with PROVLEDGER_FIPS=1 comes here by itself: `enter` is the
first thing that `provledger.rpc.server.main` does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from provledger.fips import module, policy
from provledger.fips.errors import FIPSConfigError
from provledger.settings import ConfigError

FIPS_ENV: Final = "PROVLEDGER_FIPS"
"""Asks for FIPS mode: 1, true, yes or on."""

FAIL_OPTION: Final = "--fips-fail-kat"

# Set to our pid when this process is replaced: seen again without FIPS mode, something is wrong.
_LAUNCHED_ENV: Final = "PROVLEDGER_FIPS_LAUNCHED"
_FAIL_ENV: Final = "PROVLEDGER_FIPS_FAIL_KAT"
_ON: Final = frozenset({"1", "true", "yes", "on"})
_OFF: Final = frozenset({"", "0", "false", "no", "off"})


def requested(environ: Mapping[str, str] | None = None) -> bool:
    """Whether FIPS mode was asked for; raises FIPSConfigError for a value we do not know."""
    text = (os.environ if environ is None else environ).get(FIPS_ENV, "").strip().lower()
    if text in _ON:
        return True
    if text in _OFF:
        return False
    # Never taken for "off": whoever set it meant something.
    raise FIPSConfigError(f"{FIPS_ENV}: must be 1 or 0")


def check_suite_setting(variable: str, suite: str) -> None:
    """Raise FIPSConfigError if a service is set to a suite that FIPS mode does not allow."""
    try:
        policy.check_suite(suite)
    except policy.FIPSRefusedError as error:
        raise FIPSConfigError(f"{variable}: {error}") from None


def enter(name: str, arguments: Sequence[str] | None = None) -> None:
    """Make sure that FIPS mode is on if it was asked for; does not return if it was not on yet.

    `name` is the module to start again as `python -m name`, `arguments` its command line.

    Raises:
        FIPSConfigError: it cannot be had; the message says what to do.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if policy.active():
        return
    if not requested():
        if any(word.partition("=")[0] == FAIL_OPTION for word in arguments):
            raise FIPSConfigError(f"{FAIL_OPTION} is for FIPS mode; set {FIPS_ENV}=1")
        return
    if os.environ.get(_LAUNCHED_ENV) == str(os.getpid()):
        raise FIPSConfigError("FIPS mode was launched but is not active; this is a fault of ours")
    launch(name, arguments)


def launch(name: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `name` in FIPS mode.

    Raises:
        FIPSConfigError: no provider, no openssl command, or no place for the slots.
    """
    rest, fail = _take_fail_option(arguments)
    prepared = module.prepare(module.find_module())
    environ = {
        **os.environ,
        **prepared.slot(module.SLOTS[0]).environment(),
        FIPS_ENV: "1",
        _LAUNCHED_ENV: str(os.getpid()),
    }
    if fail is not None:
        environ[_FAIL_ENV] = fail
    command = [sys.executable, *_interpreter_options(), "-m", "provledger.fips.boot"]
    os.execve(sys.executable, [*command, str(prepared.path), name, *rest], environ)  # noqa: S606


def _take_fail_option(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--fips-fail-kat NAME` out of a command line: it has to act before the service runs."""
    rest: list[str] = []
    fail: str | None = None
    waiting = False
    for argument in arguments:
        if waiting:
            fail, waiting = argument, False
        elif argument == FAIL_OPTION:
            waiting = True
        elif argument.startswith(f"{FAIL_OPTION}="):
            fail = argument.partition("=")[2]
        else:
            rest.append(argument)
    if waiting:
        raise FIPSConfigError(f"{FAIL_OPTION} needs the name of a test")
    return rest, fail


def _interpreter_options() -> list[str]:
    """The options that Python itself was started with, such as -I or -X dev."""
    options: list[str] = []
    given = iter(sys.orig_argv[1:])
    for word in given:
        if not word.startswith("-") or word in ("-m", "-c", "-"):
            break
        options.append(word)
        if word in ("-X", "-W"):
            options.append(next(given, ""))
    return options


def main() -> None:
    """Entry point; exit status 2 for what cannot be started."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m provledger.fips.launch MODULE [ARGUMENT ...]")
    try:
        launch(sys.argv[1], sys.argv[2:])
    except ConfigError as error:
        sys.stderr.write(f"provledger {sys.argv[1]}: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
