"""Make and register an installation's first keys: `python -m provledger_cli.bootstrap DIR ADDRESS`.

For each purpose that has no key in the registry, a key file is made in the data directory (unless
an earlier attempt left one) and its public half is registered; the first key of a purpose becomes
active at once. Safe to repeat, and safe to be killed anywhere in between.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.client.calls import CallPolicy, unary
from provledger.errors import ProvledgerError
from provledger.fips.policy import algorithm_for
from provledger.jwk import Algorithm, jwk_from_public_key
from provledger.kms import open_signer
from provledger.kms.errors import KMSKeyExistsError
from provledger.kms.local import create_key
from provledger.rpc.channel import channel
from provledger_cli.config import KEYS
from provledger_cli.datadir import DataDir

PURPOSES = {
    "witness": keys_pb2.KEY_PURPOSE_WITNESS,
    "checkpoint": keys_pb2.KEY_PURPOSE_CHECKPOINT,
    "head": keys_pb2.KEY_PURPOSE_HEAD,
}


async def register_first_keys(data_dir: DataDir, keys_address: str) -> list[str]:
    """Return the kids that were registered; empty if every purpose had a key."""
    registered: list[str] = []
    policy = CallPolicy(timeout_s=30.0)
    async with channel(keys_address) as opened:
        stub = keys_pb2_grpc.KeysServiceStub(opened)
        for purpose, kid in KEYS.items():
            known = await unary(
                stub.ListKeys,
                keys_pb2.ListKeysRequest(page_size=1, purpose=PURPOSES[purpose]),
                policy,
            )
            if known.keys:
                continue
            algorithm = Algorithm(algorithm_for(purpose))
            uri, jwk = await local_key(data_dir, kid, algorithm)
            request = keys_pb2.CreateKeyRequest(
                kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk
            )
            await unary(stub.CreateKey, request, policy)
            registered.append(kid)
    return registered


async def local_key(
    data_dir: DataDir, kid: str, algorithm: Algorithm = Algorithm.ED25519
) -> tuple[str, bytes]:
    """Make the key file of `kid`, or take the one that is there; its URI and public JWK."""
    name = f"{kid}.pem"
    uri = f"local:{name}"
    try:
        public_key = create_key(data_dir.keys / name, algorithm)
    except KMSKeyExistsError:
        signer = await open_signer(uri, data_dir.keys)
        public_key = signer.public_key
        await signer.close()
    return uri, orjson.dumps(jwk_from_public_key(public_key))


def main() -> None:
    """Entry point, for the supervisor."""
    data_dir = DataDir.at(Path(sys.argv[1]))
    try:
        registered = asyncio.run(register_first_keys(data_dir, sys.argv[2]))
    except ProvledgerError as error:
        sys.exit(f"keys could not be registered: {error}")
    if registered:
        sys.stderr.write(f"registered keys {', '.join(registered)}\n")


if __name__ == "__main__":
    main()
