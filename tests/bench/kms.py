"""What signing costs: by provider and algorithm, and behind a slow or a capped key service.

The cloud services are the stand-ins of the tests, on the same cores: their figures are those of our
adapters and the providers' own client libraries, not of AWS or Google.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provledger import kms, witness_batch
from provledger.client import AsyncClient
from provledger.errors import ProvledgerError
from provledger.jwk import Algorithm, thumbprint_of
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms import Signer
from provledger.kms.signing import sign_witness_batch
from tests.bench import endtoend
from tests.bench.timing import summary_ms
from tests.support import softhsm
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.support.fake_gcp_kms import FakeGCPKMS
from witness_svc.signing import BatchSigner

AWS_SPECS = {
    Algorithm.ED25519: "ECC_NIST_EDWARDS25519",
    Algorithm.ECDSA_P256: "ECC_NIST_P256",
    Algorithm.ECDSA_P384: "ECC_NIST_P384",
    Algorithm.ML_DSA_44: "ML_DSA_44",
}
GCP_KINDS = {
    Algorithm.ED25519: "EC_SIGN_ED25519",
    Algorithm.ECDSA_P256: "EC_SIGN_P256_SHA256",
    Algorithm.ECDSA_P384: "EC_SIGN_P384_SHA384",
    Algorithm.ML_DSA_65: "PQ_SIGN_ML_DSA_65",
}
IN_FLIGHT = 8
LATENCIES_MS = (1, 10, 50)
CALLS_PER_S = 100
OFFERED_PER_S = 10_000
CALL = 100
"""Statements in one call of the ledger."""
TOKEN_S = "300"
START_NS = 1_763_665_200_000_000_000


def run(folder: Path, *, full: bool) -> dict[str, Any]:
    """Run all of it; `folder` is ours."""
    folder.mkdir(parents=True, exist_ok=True)
    with _aws_settings(folder):
        signatures = asyncio.run(_by_provider(folder, seconds=2.0 if full else 0.7))
        fips = _in_fips_mode(folder)
        if fips is not None:
            signatures["local, FIPS mode"] = fips
        return {
            "signatures": signatures,
            "capped": asyncio.run(_capped(seconds=20.0 if full else 5.0)),
            "slow": {
                name: asyncio.run(_slow(folder / name, settings, full=full))
                for name, settings in (
                    ("without_tokens", {}),
                    ("with_tokens", {"PROVLEDGER_WITNESS_SIGNING_TOKEN_S": TOKEN_S}),
                )
            },
        }


# --- signatures a second ---


async def _by_provider(folder: Path, *, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {"local": {}}
    for algorithm in Algorithm:
        await kms.create_key(f"local:{algorithm}.pem", algorithm, folder)
        uri = f"local:{algorithm}.pem"
        result["local"][algorithm.value] = await _rate(uri, folder, seconds)
    if not softhsm.missing():
        hsm = softhsm.plain()
        hsm.make_token("bench")
        result["SoftHSM2"] = {}
        for algorithm in (Algorithm.ED25519, Algorithm.ECDSA_P256, Algorithm.ECDSA_P384):
            uri = hsm.uri("bench", algorithm.value)
            await kms.create_key(uri, algorithm, folder)
            result["SoftHSM2"][algorithm.value] = await _rate(uri, folder, seconds)
    with FakeAWSKMS() as aws:
        os.environ["AWS_ENDPOINT_URL_KMS"] = aws.url
        result["AWS stand-in"] = {
            algorithm.value: await _rate(f"aws-kms:{aws.add_key(spec)}", folder, seconds)
            for algorithm, spec in AWS_SPECS.items()
        }
    with FakeGCPKMS() as gcp:
        os.environ["PROVLEDGER_GCP_KMS_ENDPOINT"] = gcp.endpoint
        result["Google stand-in"] = {
            algorithm.value: await _rate(f"gcp-kms:{gcp.add_key(kind)}", folder, seconds)
            for algorithm, kind in GCP_KINDS.items()
        }
        del os.environ["PROVLEDGER_GCP_KMS_ENDPOINT"]
    return result


async def _rate(uri: str, folder: Path, seconds: float) -> dict[str, int]:
    """Signatures a second, each verified as the witness does, one by one and several at once.

    `per_cpu_s` is by the processor's time of this process, stand-in included, and so hardly
    depends on what else the machine does.
    """
    signer = await kms.open_signer(uri, folder)
    try:
        await _sign_for(signer, 1, seconds / 4)
        cpu_s = time.process_time()
        one_by_one = await _sign_for(signer, 1, seconds)
        cpu_s = time.process_time() - cpu_s
        return {
            "per_cpu_s": round(one_by_one * seconds / cpu_s),
            "one_by_one_per_s": one_by_one,
            f"{IN_FLIGHT}_at_once_per_s": await _sign_for(signer, IN_FLIGHT, seconds),
        }
    finally:
        await signer.close()


async def _sign_for(signer: Signer, flight: int, seconds: float) -> int:
    thumbprint = thumbprint_of(signer.public_key)
    batch = witness_batch.WitnessBatch("fips", bytes(32), 1, "w", thumbprint, 1, START_NS)
    body, made = batch.encode(), 0
    ends_s = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal made
        while time.perf_counter() < ends_s:
            await sign_witness_batch(signer, body)
            made += 1

    await asyncio.gather(*(worker() for _ in range(flight)))
    return round(made / (time.perf_counter() - ends_s + seconds))


def _in_fips_mode(folder: Path) -> dict[str, Any] | None:
    """The rate of a local P-256 key in a process in FIPS mode; None where that cannot be had."""
    environment = {
        **os.environ,
        "PROVLEDGER_FIPS": "1",
        "PROVLEDGER_FIPS_DIR": str(folder / "fips"),
    }
    (folder / "fips").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-m", "provledger.fips.launch", "tests.bench.kms_fips", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return None
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


# --- a key service that allows a hundred calls a second ---


@dataclass
class _Keys:
    signer: Any

    def current(self, purpose: str) -> ActiveSigner:
        """The one key there is."""
        return ActiveSigner(
            kid="witness-1",
            purpose=KeyPurpose(purpose),
            epoch=1,
            thumbprint=thumbprint_of(self.signer.public_key),
            public_key=self.signer.public_key,
            algorithm=self.signer.algorithm,
            signer=self.signer,
            not_before_ns=0,
            not_after_ns=None,
        )


async def _capped(*, seconds: float) -> dict[str, Any]:
    """Offer the witness 10,000 statements a second, 100 calls of 100, as a busy ledger does."""
    leaves = [witness_batch.statement_leaf_hash("blake3", b"%d" % n) for n in range(CALL)]
    with _fake_process() as fake:
        fake.ask(f"limit {CALLS_PER_S}")
        os.environ["AWS_ENDPOINT_URL_KMS"] = fake.url
        signer = await kms.open_signer(fake.uri, Path())
        witness = BatchSigner(
            _Keys(signer), clock=lambda: START_NS, max_statements=4096, max_queued_statements=20_000
        )
        durations: list[float] = []
        failed: list[str] = []

        async def call() -> None:
            start = time.perf_counter()
            try:
                await witness.sign("blake3", leaves)
            except ProvledgerError as error:
                failed.append(str(getattr(error, "reason", error)))
            else:
                durations.append(time.perf_counter() - start)

        tasks: list[asyncio.Task[None]] = []
        started_s = time.perf_counter()
        while (now_s := time.perf_counter() - started_s) < seconds:
            due = int(now_s * OFFERED_PER_S / CALL)
            tasks += [asyncio.create_task(call()) for _ in range(due - len(tasks))]
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        took_s = time.perf_counter() - started_s
        await witness.close()
        await signer.close()
        said = fake.ask("calls")
        return {
            "offered_per_s": round(len(tasks) * CALL / seconds),
            "signed_per_s": round(len(durations) * CALL / took_s),
            "failed": sorted(set(failed)),
            "calls_per_s": round(said["calls"] / took_s, 1),
            "statements_per_call": round(len(durations) * CALL / said["signed"]),
            "throttled": said["calls"] - said["signed"],
            **summary_ms(durations),
        }


# --- the whole, with a key service that takes its time ---


async def _slow(data_dir: Path, settings: dict[str, str], *, full: bool) -> dict[str, Any]:
    """Append with a witness key behind so many milliseconds, and first with a local one."""
    count = 20_000 if full else 4_000
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(_environment(settings))
        fake = stack.enter_context(_fake_process())
        os.environ["AWS_ENDPOINT_URL_KMS"] = fake.url
        running = stack.enter_context(endtoend.services(data_dir, None))
        async with endtoend.client_of(running) as client:
            await endtoend.batched(client, 0, 2_000)
            result["local"] = await _appends(client, 1, count)
            fake.rotate(data_dir)
            for round_number, latency_ms in enumerate(LATENCIES_MS, 2):
                fake.set_latency(latency_ms)
                before = fake.calls()
                measured = await _appends(client, round_number, count)
                measured["kms_calls"] = fake.calls() - before
                result[f"{latency_ms}_ms"] = measured
    return result


async def _appends(client: AsyncClient, round_number: int, count: int) -> dict[str, Any]:
    first = round_number * 10_000_000
    return {
        "batched_500": await endtoend.batched(client, first, count),
        "single_1_in_flight": await endtoend.singles(client, first + 1_000_000, count // 40, 1),
        "single_64_in_flight": await endtoend.singles(client, first + 2_000_000, count // 2, 64),
    }


class _FakeProcess:
    """The AWS stand-in in a process of its own, told what to do line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        said = self.ask("key")
        self.url: str = said["url"]
        self.uri = f"aws-kms:{said['arn']}"
        self._jwk = said["jwk"]

    def ask(self, line: str) -> dict[str, Any]:
        """Give a command of `tests.bench.kms_fake`, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def set_latency(self, latency_ms: int) -> None:
        """Have each call take so much longer."""
        self.ask(f"latency {latency_ms}")

    def calls(self) -> int:
        """Signatures asked for so far."""
        return int(self.ask("calls")["calls"])

    def rotate(self, data_dir: Path) -> None:
        """Make its key the witness key of an installation."""
        jwk = data_dir / "aws-1.jwk"
        jwk.write_text(self._jwk)
        subprocess.run(
            [
                *(sys.executable, "-m", "provledger_cli", "keys", "rotate", "--kid", "aws-1"),
                *("--uri", self.uri, "--jwk", str(jwk)),
                *("--no-probe", "--data-dir", str(data_dir)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def _fake_process() -> Iterator[_FakeProcess]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.kms_fake"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _FakeProcess(process)
        finally:
            with contextlib.suppress(BrokenPipeError):
                if process.stdin is not None:
                    process.stdin.close()


# --- settings ---


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _aws_settings(folder: Path) -> Iterator[None]:
    """Nothing of this machine's AWS settings, and credentials that the stand-in takes."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    with _environment({}):
        os.environ.clear()
        os.environ.update(
            clean,
            AWS_CONFIG_FILE=str(folder / "none"),
            AWS_SHARED_CREDENTIALS_FILE=str(folder / "none"),
            AWS_EC2_METADATA_DISABLED="true",
            AWS_ACCESS_KEY_ID="AKIDEXAMPLE",
            AWS_SECRET_ACCESS_KEY="example",
            NO_PROXY="127.0.0.1",
        )
        yield
