"""FIPS mode with OpenSSL's real provider: on, tested, and never half on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.fips import module
from provledger.fips.errors import FIPSConfigError
from provledger.fips.module import Prepared
from provledger.jwk import Algorithm

REPO = Path(__file__).parents[2]


def missing() -> str:
    try:
        module.find_module()
    except FIPSConfigError as error:
        return f"{error} (scripts/install_test_tools.sh)"
    return "" if sys.platform == "linux" else "FIPS mode needs Linux"


pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the slots of all tests here are."""
    return tmp_path_factory.mktemp("fips")


@pytest.fixture(scope="module")
def prepared(base: Path) -> Prepared:
    return module.prepare(module.find_module(), base)


def environment(base: Path, **more: str) -> dict[str, str]:
    clean = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("OPENSSL_", "PROVLEDGER_")) or name == module.MODULE_ENV
    }
    return {**clean, module.DIR_ENV: str(base), "PROVLEDGER_FIPS": "1", **more}


def run(
    base: Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=env or environment(base),
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def in_fips_mode(base: Path, tmp_path: Path) -> Callable[[str], Any]:
    """Runs code in a process in FIPS mode; what it assigns to `answer` comes back."""

    def execute(code: str) -> Any:
        (tmp_path / "snippet.py").write_text(
            f"{code}\nimport json\nprint(json.dumps(answer))\n", "utf-8"
        )
        env = environment(base, PYTHONPATH=str(tmp_path))
        done = run(base, "provledger.fips.launch", "snippet", env=env)
        return json.loads(done.stdout)

    return execute


# --- on ------------------------------------------------------------------------------------------


def test_report_names_the_module_and_every_libcrypto(base: Path) -> None:
    report = json.loads(run(base, "provledger.fips.launch", "provledger.fips.report").stdout)
    assert report["active"] is True
    assert report["module"]["name"] == "OpenSSL FIPS Provider"
    assert re.fullmatch(r"3\.\d+\.\d+", report["module"]["version"])
    assert [item["user"] for item in report["libcryptos"]] == ["python", "cryptography", "psycopg"]
    assert any(item["self_test_repeated"] for item in report["libcryptos"])
    names = {test["name"] for test in report["tests"]}
    assert {"sha256", "shake256", "hmac-sha256", "ecdsa-p256-verify", "ecdsa-p256-sign"} <= names
    assert ("ed25519" in names) is report["ed25519_approved"]
    assert "not a validation" in report["validation"]
    assert any("BoringSSL" in line for line in report["outside"])


def test_each_libcrypto_has_a_copy_of_its_own(in_fips_mode: Callable[[str], Any]) -> None:
    answer = in_fips_mode(
        "from provledger.fips import boot, libcrypto\n"
        "booted = boot.report()\n"
        "mapped = {str(path) for path in libcrypto.mapped_files()}\n"
        "copies = [item.copy for item in booted.evidence]\n"
        "answer = [len(copies), len(set(copies)), sorted(set(copies) - mapped)]\n"
    )
    loaded, copies, not_mapped = answer
    assert loaded == 3
    assert not_mapped == []
    assert copies >= 1, "fewer than libcryptos only where some share one"


@pytest.mark.parametrize("foreign", ["nacl.bindings", "blake3"])
def test_cryptography_of_others_is_not_loaded_and_noticed_if_it_is(
    in_fips_mode: Callable[[str], Any], foreign: str
) -> None:
    answer = in_fips_mode(
        f"""
import importlib
from provledger.fips import libcrypto, watch
from provledger.fips.errors import FIPSAssertionError

answer = [[path.name for path in libcrypto.foreign_libraries()]]
watch.announce()
importlib.import_module({foreign!r})
try:
    watch.announce()
except FIPSAssertionError as error:
    answer.append(str(error))
"""
    )
    assert answer[0] == []
    assert "no part of the module" in answer[1]


def test_what_is_refused_and_what_goes_on_working(in_fips_mode: Callable[[str], Any]) -> None:
    """The second half is why there is an allow-list of ours."""
    answer = in_fips_mode(
        """
import hashlib, _hashlib
from cryptography.hazmat.primitives import hashes
from provledger import hashing
from provledger.fips.policy import FIPSRefusedError

def refused(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return ""

answer = {
    "openssl md5": refused(lambda: _hashlib.openssl_md5(b"")),
    "cryptography md5": refused(lambda: hashes.Hash(hashes.MD5())),
    "suite": refused(lambda: hashing.suite("blake3")),
    "blake3": refused(lambda: hashing.blake3(b"")),
    "python md5": refused(lambda: hashlib.md5(b"")),
    "python blake2b": refused(lambda: hashlib.blake2b(b"")),
    "sha256": hashing.sha256(b"abc").hex()[:8],
}
"""
    )
    assert answer["openssl md5"]
    assert answer["cryptography md5"]
    assert answer["suite"] == answer["blake3"] == "FIPSRefusedError"
    assert answer["python md5"] == answer["python blake2b"] == ""
    assert answer["sha256"] == "ba7816bf"


@pytest.mark.parametrize(
    "algorithm", [Algorithm.ED25519, Algorithm.ECDSA_P256, Algorithm.ECDSA_P384]
)
def test_local_keys_are_made_in_the_module_and_sign(
    in_fips_mode: Callable[[str], Any], algorithm: Algorithm
) -> None:
    answer = in_fips_mode(
        f"""
import asyncio, tempfile
from pathlib import Path
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption, Encoding, PrivateFormat)
from provledger.fips import keygen, policy
from provledger.jwk import Algorithm, algorithm_of
from provledger.kms import open_signer
from provledger.kms.signing import self_test

algorithm = Algorithm({algorithm.value!r})
if algorithm is Algorithm.ED25519 and not policy.ed25519_approved():
    answer = "not offered"
else:
    key = keygen.generate(algorithm)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "pass").touch(0o600)
        (directory / "pass").write_text("a passphrase of some length")
        (directory / "key.pem").touch(0o600)
        (directory / "key.pem").write_bytes(key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8,
            BestAvailableEncryption(b"a passphrase of some length")))
        async def use():
            signer = await open_signer("local:key.pem?passphrase-file=pass", directory)
            await self_test(signer, key.public_key())
        asyncio.run(use())
    answer = algorithm_of(key.public_key())
"""
    )
    assert answer in (algorithm.value, "not offered")


# --- a service -----------------------------------------------------------------------------------


class Service:
    """A service in FIPS mode; `command` is what follows `python -m`."""

    def __init__(self, base: Path, tmp_path: Path, *command: str, **more: str) -> None:
        self.ready_file = tmp_path / "ready.json"
        self.log = tmp_path / "service.log"
        env = environment(
            base,
            PROVLEDGER_KEYS_READY_FILE=str(self.ready_file),
            PROVLEDGER_KEYS_LOG_FORMAT="json",
            **more,
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], env=env, cwd=REPO, stdout=log, stderr=log
            )

    def port(self) -> int:
        deadline_s = time.monotonic() + 60
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)
        ready = json.loads(self.ready_file.read_text())
        assert ready["pid"] == self.process.pid, "it replaced itself, in the same process"
        return int(ready["port"])

    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def services() -> Iterator[list[Service]]:
    started: list[Service] = []
    yield started
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait(30)


def test_keys_of_other_kinds_are_neither_made_nor_used(in_fips_mode: Callable[[str], Any]) -> None:
    answer = in_fips_mode(
        """
import tempfile
from pathlib import Path
from provledger.fips import policy
from provledger.jwk import Algorithm
from provledger.kms import local
from provledger.kms.errors import KMSConfigError

answer = []
for algorithm in (Algorithm.ML_DSA_44, Algorithm.ML_DSA_65):
    for purpose in ("witness", "checkpoint", "head"):
        try:
            policy.check_signing_key(algorithm, purpose)
            answer.append(f"{algorithm} may sign for {purpose}")
        except policy.FIPSRefusedError:
            pass
    with tempfile.TemporaryDirectory() as name:
        try:
            local.create_key(Path(name) / "key.pem", algorithm)
            answer.append(f"{algorithm} was made")
        except KMSConfigError:
            pass
"""
    )
    assert answer == []


def test_signing_tokens_are_p256_keys_made_in_the_module(
    in_fips_mode: Callable[[str], Any], tmp_path: Path
) -> None:
    answer = in_fips_mode(
        f"""
import asyncio, time
from pathlib import Path
from provledger.fips import policy
from provledger.jwk import Algorithm, algorithm_of, thumbprint_of
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms.errors import KMSIntegrityError
from provledger.kms.local import LocalProvider
from witness_svc.tokens import SigningTokens

class Keys:
    def current(self, purpose):
        return self.active

async def main():
    provider = LocalProvider(Path({str(tmp_path)!r}))
    await provider.create_key("local:w.pem", Algorithm.ECDSA_P256)
    signer = await provider.open_signer("local:w.pem")
    keys = Keys()
    keys.active = ActiveSigner("w", KeyPurpose.WITNESS, 1, thumbprint_of(signer.public_key),
        signer.public_key, signer.algorithm, signer, 0, None)
    tokens = SigningTokens(keys, clock=time.time_ns, lifetime_s=60, max_uses=100)
    await tokens.renew()
    token, in_memory = tokens.take(keys.active, time.time_ns())
    made = str(algorithm_of(token.certificate.public_key))
    policy.activate(ed25519_approved=True, falsify_pairwise=True)
    try:
        await tokens.renew()
    except KMSIntegrityError:
        return [made, policy.error()]

answer = asyncio.run(main())
"""
    )
    assert answer[0] == Algorithm.ECDSA_P256
    # A key in memory that fails its pairwise test ends the service, as any other key does.
    assert "pairwise test of the key at memory:" in answer[1]


def test_service_started_directly_puts_itself_into_fips_mode(
    base: Path, tmp_path: Path, services: list[Service]
) -> None:
    service = Service(
        *(base, tmp_path, "keys_svc"),
        PROVLEDGER_KEYS_DATABASE_URL=f"sqlite:///{tmp_path / 'keys.sqlite3'}",
    )
    services.append(service)
    with grpc.insecure_channel(f"127.0.0.1:{service.port()}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    ready = next(event for event in service.events() if event["event"] == "fips.ready")
    assert "not a validation" in ready["fields"]["note"]
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0


def test_failed_pairwise_test_makes_a_running_service_end(
    base: Path, tmp_path: Path, services: list[Service]
) -> None:
    trigger = tmp_path / "fail"
    service = Service(
        *(base, tmp_path, "provledger.fips.launch", "tests.support.fips_service"),
        PROVLEDGER_TEST_FAIL_FILE=str(trigger),
    )
    services.append(service)
    seen = []
    with grpc.insecure_channel(f"127.0.0.1:{service.port()}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=60):
                seen.append(answer.status)
                trigger.touch()
        except grpc.RpcError:
            pass  # the service is gone
    assert seen[0] == health_pb2.HealthCheckResponse.SERVING
    assert seen[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
    assert service.process.wait(30) == 1
    assert any(event["event"] == "fips.error_state" for event in service.events())


# --- a test that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sha256", "shake256", "ecdsa-p256-sign", "ecdsa-p256-verify"])
def test_failed_known_answer_test_keeps_the_service_from_starting(base: Path, name: str) -> None:
    done = run(base, "keys_svc", f"--fips-fail-kat={name}", check=False)
    assert done.returncode == 1
    assert f"{name}: " in done.stderr
    assert "does not start" in done.stderr
    assert "DATABASE_URL" not in done.stderr, "the service itself was never reached"


def test_unknown_test_to_fail_is_a_bad_setting(base: Path) -> None:
    done = run(base, "keys_svc", "--fips-fail-kat", "nope", check=False)
    assert done.returncode == 2
    assert "known are sha256" in done.stderr


# --- never half on -------------------------------------------------------------------------------


def test_absent_provider_refuses_to_start_with_the_command_that_installs_it(base: Path) -> None:
    env = environment(base, PROVLEDGER_FIPS_MODULE="/not/there/fips.so")
    done = run(base, "keys_svc", check=False, env=env)
    assert done.returncode == 2
    assert "apt-get install openssl openssl-provider-fips" in done.stderr


def test_value_that_is_not_understood_refuses_to_start(base: Path) -> None:
    done = run(base, "keys_svc", check=False, env=environment(base, PROVLEDGER_FIPS="yess"))
    assert done.returncode == 2
    assert "PROVLEDGER_FIPS" in done.stderr


def boot(prepared: Prepared, path: Path, damage: Callable[[Prepared], None]) -> str:
    """Boot with damaged slots, past the launcher that would have mended them; what it says."""
    shutil.copytree(prepared.path, path, dirs_exist_ok=True)
    for name in module.SLOTS:
        configuration = Prepared(path).slot(name).configuration
        text = configuration.read_text().replace(str(prepared.path), str(path))
        configuration.write_text(text)
    damaged = Prepared(path)
    damage(damaged)
    done = run(
        *(path.parent, "provledger.fips.boot", str(path), "provledger.fips.report"),
        env=environment(path.parent, **damaged.slot("python").environment()),
        check=False,
    )
    assert done.returncode != 0
    assert '"active"' not in done.stdout
    return done.stderr


def test_slots_that_are_moved_still_boot(prepared: Prepared, tmp_path: Path) -> None:
    """So that the tests below fail for the reason they name."""
    with pytest.raises(AssertionError, match="assert 0 != 0"):
        boot(prepared, tmp_path / "slots", lambda slots: None)


@pytest.mark.parametrize("slot", ["python", "cryptography", "psycopg"])
def test_missing_configuration_does_not_fail_open(
    prepared: Prepared, tmp_path: Path, slot: str
) -> None:
    said = boot(prepared, tmp_path / "slots", lambda slots: slots.slot(slot).configuration.unlink())
    assert "FIPS mode: " in said


@pytest.mark.parametrize("slot", ["python", "cryptography", "psycopg"])
def test_configuration_without_the_default_properties_is_found_out(
    prepared: Prepared, tmp_path: Path, slot: str
) -> None:
    """The provider would be loaded, and nobody would use it."""

    def damage(slots: Prepared) -> None:
        path = slots.slot(slot).configuration
        path.write_text(path.read_text().replace("default_properties = fips=yes", ""))

    said = boot(prepared, tmp_path / "slots", damage)
    assert "FIPS mode: " in said


@pytest.mark.parametrize("slot", ["python", "cryptography"])
def test_changed_module_fails_its_integrity_test(
    prepared: Prepared, tmp_path: Path, slot: str
) -> None:
    def damage(slots: Prepared) -> None:
        path = slots.slot(slot).module
        data = bytearray(path.read_bytes())
        # Within its constants: the text of an error message, so that it still loads.
        place = data.index(b"OpenSSL FIPS Provider")
        data[place] ^= 0x20
        path.write_bytes(bytes(data))

    boot(prepared, tmp_path / "slots", damage)


def test_two_libcryptos_on_one_copy_are_found_out(prepared: Prepared, tmp_path: Path) -> None:
    def damage(slots: Prepared) -> None:
        path = slots.slot("cryptography").configuration
        path.write_text(path.read_text().replace("/cryptography/", "/python/"))

    assert "did not load the FIPS provider" in boot(prepared, tmp_path / "slots", damage)


def test_cryptography_that_was_imported_too_early_is_refused(
    base: Path, prepared: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import cryptography\n")
    env = environment(base, PYTHONPATH=str(tmp_path))
    done = run(base, "provledger.fips.launch", "provledger.fips.report", env=env, check=False)
    assert done.returncode == 2
    assert "imported before FIPS mode was on: cryptography" in done.stderr


# --- the verb ------------------------------------------------------------------------------------

VERB = "from provledger_cli import failures\nfrom provledger_cli.verbs.fips import application\n"


def status(base: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    code = f"{VERB}failures.run(application())"
    return subprocess.run(
        [sys.executable, "-c", code, "status", *arguments],
        env={**environment(base), "PROVLEDGER_FIPS": "0", **more},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_status_says_what_is_inside_and_outside(base: Path) -> None:
    done = status(base)
    assert done.returncode == 0, done.stderr
    for words in ("OpenSSL FIPS Provider 3.", "Inside the module", "Outside the module"):
        assert words in done.stdout
    assert "not a validation" in done.stdout


def test_status_as_json_is_one_document(base: Path) -> None:
    document = json.loads(status(base, "--json").stdout)
    assert document["requested"] is False
    assert document["active"] is True


def test_status_tells_a_failed_test_from_an_absent_provider(base: Path) -> None:
    assert status(base, "--fips-fail-kat=sha256").returncode == 1
    absent = status(base, PROVLEDGER_FIPS_MODULE="/not/there.so")
    assert absent.returncode == 2
    assert "apt-get install" in absent.stderr
