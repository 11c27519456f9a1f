"""What `check_aws_kms.py` and `check_gcp_kms.py` have in common: sign with a key of a real account.

Each check prints a line; the first that does not hold ends the program with exit code 1. Signs a
few dozen messages of ours and changes nothing, unless `--create` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from provledger import kms
from provledger.errors import KMSError
from provledger.jwk import verify_signature
from provledger.kms import registry, signing
from provledger.kms.errors import KMSKeyNotFoundError, KMSPermissionError
from provledger.kms.remote import RemoteSigner, Wanted

SIGNATURES = 30


def main(doc: str, wrong_keys: Mapping[str, str]) -> None:
    """Run the checks. `wrong_keys` maps a part of the URI to what makes it the name of no key."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("uri", help="key URI, for signing only")
    parser.add_argument(
        "--create", action="store_true", help="also make a key beside it, which costs money"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(_check(arguments.uri, arguments.create, wrong_keys))
    except (KMSError, AssertionError) as error:
        print(f"FAILED: {type(error).__name__}: {error}")
        sys.exit(1)
    print("all checks hold")


async def _check(uri: str, create: bool, wrong_keys: Mapping[str, str]) -> None:
    key_dir = Path(tempfile.gettempdir())
    signer = await kms.open_signer(uri, key_dir)
    assert isinstance(signer, RemoteSigner)
    print(f"opened: {signer.algorithm}, protection {signer.protection}")
    await signing.self_test(signer, signer.public_key)
    await signing.sign_checkpoint(signer, "provledger.example/check", 1, bytes(32))
    print("signed a self-test and a checkpoint, both verified here")
    longest = bytes(4096)
    verify_signature(signer.public_key, await signer.sign(longest), longest)
    print("signed 4,096 bytes")
    await _measure(signer)
    await signer.close()
    for part, other in wrong_keys.items():
        await _expect_no_key(uri.replace(part, other), key_dir)
    if create:
        wanted = Wanted("check-delete-me", secrets.token_bytes(16), frozenset({uri}))
        created = await registry.create_beside(uri, signer.algorithm, key_dir, wanted)
        again = await registry.create_beside(uri, signer.algorithm, key_dir, wanted)
        assert (again.uri, again.found) == (created.uri, True)
        print(f"made {created.uri}; delete it when you have seen it")
        fresh = await kms.open_signer(created.uri, key_dir)
        await signing.self_test(fresh, created.public_key)
        await fresh.close()
        print("the new key signs")


async def _measure(signer: RemoteSigner) -> None:
    took_ms = []
    for number in range(SIGNATURES):
        started_s = time.perf_counter()
        await signer.sign(b"provledger check %d" % number)
        took_ms.append((time.perf_counter() - started_s) * 1000)
    took_ms.sort()
    print(
        f"{SIGNATURES} signatures one after another: median {took_ms[SIGNATURES // 2]:.0f} ms, "
        f"slowest {took_ms[-1]:.0f} ms; limit learned: {signer.limiter.rate.rate_per_s or 'none'}"
    )


async def _expect_no_key(uri: str, key_dir: Path) -> None:
    try:
        await kms.open_signer(uri, key_dir)
    except (KMSKeyNotFoundError, KMSPermissionError) as error:
        print(f"refused as it should be: {type(error).__name__}: {error}")
    else:
        raise AssertionError(f"{uri} could be opened")
