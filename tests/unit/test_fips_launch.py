"""Launching FIPS mode: what asks for it, what it needs, and slots that nobody tampered with.

The openssl command is a small script here, so that this runs without the provider; the real one is
in tests/integration/test_fips.py.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from provledger.fips import launch, module, policy
from provledger.fips.errors import FIPSConfigError

OPENSSL = """#!/bin/sh
case "$1" in
version) echo 'MODULESDIR: "{modules}"' ;;
fipsinstall)
    while [ $# -gt 0 ]; do [ "$1" = -out ] && out=$2; shift; done
    printf '[fips_sect]\\nactivate = 1\\nmodule-mac = AA\\ninstall-mac = BB\\n' >"$out"
    printf 'install-status = INSTALL_SELF_TEST_KATS_RUN\\n' >>"$out"
    echo run >>{modules}/installs
    ;;
esac
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OpenSSL's directory of modules, with a provider in it and an openssl that knows it."""
    path = tmp_path / "modules"
    path.mkdir()
    (path / "fips.so").write_bytes(b"\x7fELF a provider")
    script = tmp_path / "bin" / "openssl"
    script.parent.mkdir()
    script.write_text(OPENSSL.format(modules=path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    for name in (module.MODULE_ENV, module.DIR_ENV, launch.FIPS_ENV):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "slots"


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_mode_is_asked_for(text: str) -> None:
    assert launch.requested({launch.FIPS_ENV: text})


@pytest.mark.parametrize("environ", [{}, *({launch.FIPS_ENV: t} for t in ("", "0", "False", "no"))])
def test_mode_is_not_asked_for(environ: dict[str, str]) -> None:
    assert not launch.requested(environ)


@pytest.mark.parametrize("text", ["2", "yess", "enabled", "fips", "-1"])
def test_value_that_is_not_understood_is_never_taken_for_off(text: str) -> None:
    with pytest.raises(FIPSConfigError, match="must be 1 or 0"):
        launch.requested({launch.FIPS_ENV: text})


def test_nothing_happens_without_it(modules: Path) -> None:
    launch.enter("keys_svc", [])
    assert not policy.active()


def test_making_a_test_fail_needs_the_mode(modules: Path) -> None:
    for arguments in (["--fips-fail-kat", "sha256"], ["--fips-fail-kat=sha256"]):
        with pytest.raises(FIPSConfigError, match="PROVLEDGER_FIPS=1"):
            launch.enter("keys_svc", arguments)


def test_process_that_was_launched_but_is_not_in_the_mode_ends(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch.FIPS_ENV, "1")
    monkeypatch.setenv(launch._LAUNCHED_ENV, str(os.getpid()))
    with pytest.raises(FIPSConfigError, match="not active"):
        launch.enter("keys_svc", [])


def test_process_is_replaced_with_everything_it_was_given(
    modules: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    class Replaced(BaseException):
        pass

    def execve(path: str, command: list[str], environ: dict[str, str]) -> None:
        seen.update(command=command, environ=environ)
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-I", "-m", "keys_svc"])
    monkeypatch.setenv(launch.FIPS_ENV, "1")
    monkeypatch.setenv(module.DIR_ENV, str(base))
    with pytest.raises(Replaced):
        launch.enter("keys_svc", ["--lifeline-fd", "5", "--fips-fail-kat=sha256", "--config", "c"])
    command, environ = seen["command"], seen["environ"]
    assert isinstance(command, list)
    assert isinstance(environ, dict)
    slots = command[command.index("provledger.fips.boot") + 1]
    assert command[1:4] == ["-X", "dev", "-I"]
    assert command[-5:] == ["keys_svc", "--lifeline-fd", "5", "--config", "c"]
    assert environ["OPENSSL_CONF"] == f"{slots}/python/openssl.cnf"
    assert environ["OPENSSL_MODULES"] == f"{slots}/python"
    assert environ["PROVLEDGER_FIPS_FAIL_KAT"] == "sha256"


# --- the module ----------------------------------------------------------------------------------


def test_module_is_found_where_openssl_keeps_its_modules(modules: Path) -> None:
    assert module.find_module() == modules / "fips.so"


def test_module_may_be_named(modules: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.touch()
    assert module.find_module({module.MODULE_ENV: str(other)}) == other


def test_missing_module_says_what_to_install(modules: Path) -> None:
    (modules / "fips.so").unlink()
    with pytest.raises(FIPSConfigError, match="apt-get install openssl openssl-provider-fips"):
        module.find_module()
    with pytest.raises(FIPSConfigError, match="is not a file"):
        module.find_module({module.MODULE_ENV: "/not/there.so"})


def test_missing_openssl_says_what_to_install(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(FIPSConfigError, match="apt-get install"):
        module.find_module()


# --- the slots -----------------------------------------------------------------------------------


def test_slots_are_private_copies_that_never_skip_the_tests(modules: Path, base: Path) -> None:
    prepared = module.prepare(modules / "fips.so", base)
    inodes = set()
    for name in module.SLOTS:
        slot = prepared.slot(name)
        assert slot.module.read_bytes() == b"\x7fELF a provider"
        inodes.add(slot.module.stat().st_ino)
        text = (slot.path / "fipsmodule.cnf").read_text()
        assert "module-mac = AA" in text
        assert "install-" not in text
        configuration = slot.configuration.read_text()
        assert f"module = {slot.module}" in configuration
        assert "default_properties = fips=yes" in configuration
        assert "config_diagnostics = 1" in configuration
        for path in (base, prepared.path, slot.path, slot.module, slot.configuration):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert len(inodes) == len(module.SLOTS), "no two share a file"
    assert [path.name for path in base.iterdir()] == [prepared.path.name], "no scratch is left"


def test_slots_are_made_once(modules: Path, base: Path) -> None:
    first = module.prepare(modules / "fips.so", base)
    assert module.prepare(modules / "fips.so", base) == first
    assert (modules / "installs").read_text().count("run") == len(module.SLOTS)


def test_another_module_gets_other_slots(modules: Path, base: Path) -> None:
    first = module.prepare(modules / "fips.so", base)
    (modules / "fips.so").write_bytes(b"\x7fELF a newer one")
    assert module.prepare(modules / "fips.so", base) != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda slot: slot.module.write_bytes(b"\x7fELF something else"),
        lambda slot: slot.module.unlink(),
        lambda slot: slot.configuration.write_text("openssl_conf = mine\n"),
        lambda slot: (slot.path / "fipsmodule.cnf").write_text(
            "[fips_sect]\nactivate = 1\nmodule-mac = AA\n  install-status = X\n"
        ),
        lambda slot: (slot.path / "fipsmodule.cnf").write_text("[fips_sect]\nmodule-mac = AA\n"),
        lambda slot: slot.module.chmod(0o666),
        lambda slot: slot.path.chmod(0o777),
    ],
    ids=["module", "no-module", "configuration", "skips-tests", "inactive", "open-file", "open"],
)
def test_damaged_slots_are_made_again(modules: Path, base: Path, damage) -> None:
    prepared = module.prepare(modules / "fips.so", base)
    damage(prepared.slot("cryptography"))
    assert module.prepare(modules / "fips.so", base) == prepared
    assert module._is_sound(prepared, b"\x7fELF a provider")
    assert [path.name for path in base.iterdir()] == [prepared.path.name]


def test_directory_that_others_can_write_is_refused(modules: Path, base: Path) -> None:
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(FIPSConfigError, match="chmod 700"):
        module.prepare(modules / "fips.so", base)


def test_link_in_place_of_the_directory_is_refused(
    modules: Path, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FIPSConfigError, match="not a directory of ours"):
        module.prepare(modules / "fips.so", base)


def test_path_that_openssl_would_read_otherwise_is_refused(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(FIPSConfigError, match="special characters"):
        module.prepare(modules / "fips.so", tmp_path / "a$b")


def test_fipsinstall_that_fails_is_told(modules: Path, base: Path, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "openssl"
    script.write_text("#!/bin/sh\necho 'KAT failed' >&2\nexit 1\n")
    with pytest.raises(FIPSConfigError, match="fipsinstall failed: KAT failed"):
        module.prepare(modules / "fips.so", base)
    assert list(base.iterdir()) == []
