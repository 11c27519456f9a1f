"""Signatures a second in FIPS mode: run through `provledger.fips.launch`, prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from provledger import kms, witness_batch
from provledger.jwk import Algorithm, thumbprint_of
from provledger.kms.signing import sign_witness_batch

SECONDS = 1.0


async def measure(folder: Path) -> dict[str, dict[str, int]]:
    """Make a P-256 key in the module, and sign with it one by one."""
    uri = "local:fips.pem"
    await kms.create_key(uri, Algorithm.ECDSA_P256, folder)
    signer = await kms.open_signer(uri, folder)
    body = witness_batch.WitnessBatch(
        "fips", bytes(32), 1, "w", thumbprint_of(signer.public_key), 1, time.time_ns()
    ).encode()
    made, ends_s, cpu_s = 0, time.perf_counter() + SECONDS, time.process_time()
    while time.perf_counter() < ends_s:
        await sign_witness_batch(signer, body)
        made += 1
    cpu_s = time.process_time() - cpu_s
    rates = {"per_cpu_s": round(made / cpu_s), "one_by_one_per_s": round(made / SECONDS)}
    return {Algorithm.ECDSA_P256.value: rates}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(Path(sys.argv[1])))))
