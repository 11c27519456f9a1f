"""Make and register an installation's first keys.

    python -m provledger_cli.embedded.bootstrap DIR ADDRESS

For each purpose that has no key in the registry, a key file is made in the data directory (unless
an earlier attempt left one) and its public half is registered; the first key of a purpose becomes
active at once. Safe to repeat, and safe to be killed anywhere in between.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.client.calls import CallPolicy, unary
from provledger.errors import FailedPreconditionError, KMSError, ProvledgerError
from provledger.fips.policy import algorithm_for
from provledger.jwk import Algorithm, jwk_from_public_key, thumbprint, thumbprint_of
from provledger.kms import Signer, open_signer
from provledger.kms.errors import KMSKeyExistsError
from provledger.kms.local import create_key, remove_scratch
from provledger.kms.signing import sign_key_event
from provledger.rpc.channel import channel
from provledger.rpc.key_events import event_from_pb
from provledger_cli.embedded import given_key
from provledger_cli.embedded.config import KEYS, OPTIONAL_KEYS, RECOVERY_KID
from provledger_cli.embedded.datadir import PIN_FILE, DataDir, write_atomically
from provledger_cli.embedded.launching import WITNESS_PRIVATE_KEY

PURPOSES = {
    "witness": keys_pb2.KEY_PURPOSE_WITNESS,
    "checkpoint": keys_pb2.KEY_PURPOSE_CHECKPOINT,
    "head": keys_pb2.KEY_PURPOSE_HEAD,
    "receipt": keys_pb2.KEY_PURPOSE_RECEIPT,
}


async def register_first_keys(data_dir: DataDir, keys_address: str) -> list[str]:
    """Return the kids that were registered; empty if every purpose had a key."""
    registered: list[str] = []
    with suppress(OSError):  # nothing depends on it, and the next start tries again
        remove_scratch(data_dir.keys)
    policy = CallPolicy(timeout_s=30.0)
    async with channel(keys_address) as opened:
        stub = keys_pb2_grpc.KeysServiceStub(opened)
        if await _is_lost(data_dir, stub, policy):
            sys.stderr.write(
                "the key registry is empty, but this installation has a key ledger: nothing is "
                "signed until it is rebuilt, with keys rebuild EXPORT "
                f"--pin {data_dir.path / PIN_FILE}\n"
            )
            return registered
        begun = await unary(stub.ListKeyEvents, keys_pb2.ListKeyEventsRequest(page_size=1), policy)
        for purpose, kid in KEYS.items():
            if purpose in OPTIONAL_KEYS and begun.events:
                continue  # the key ledger began without it
            known = await unary(
                stub.ListKeys,
                keys_pb2.ListKeysRequest(page_size=1, purpose=PURPOSES[purpose]),
                policy,
            )
            given = os.environ.get(WITNESS_PRIVATE_KEY, "") if purpose == "witness" else ""
            if known.keys:
                if given:
                    sys.stderr.write(
                        f"{WITNESS_PRIVATE_KEY} has no effect any more: there is a witness key, "
                        "which `keys rotate` replaces\n"
                    )
                continue
            if given:
                uri, jwk = await given_key.take(data_dir, kid, given)
            else:
                uri, jwk = await local_key(data_dir, kid, purpose)
            request = keys_pb2.CreateKeyRequest(
                kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk
            )
            await unary(stub.CreateKey, request, policy)
            registered.append(kid)
        await begin_key_ledger(data_dir, stub, policy)
    return registered


async def _is_lost(data_dir: DataDir, stub: Any, policy: CallPolicy) -> bool:
    """Whether the registry is gone: new first keys would be another history than the ledger's."""
    known = await unary(stub.ListKeys, keys_pb2.ListKeysRequest(page_size=1), policy)
    return not known.keys and (data_dir.path / PIN_FILE).exists()


async def begin_key_ledger(data_dir: DataDir, stub: Any, policy: CallPolicy) -> None:
    """Propose the genesis of the key ledger, endorsed by a recovery key made here.

    The ledger service does the rest. An installation whose keys were rotated before it had a key
    ledger stays without one.
    """
    known = await unary(stub.ListKeyEvents, keys_pb2.ListKeyEventsRequest(page_size=1), policy)
    begun = known.events[0] if known.events else None
    if begun is not None and begun.state != keys_pb2.KEY_EVENT_STATE_PROPOSED:
        await _pin_again(data_dir, bytes(begun.event.thumbprint))
        return
    uri, jwk = await local_key(data_dir, RECOVERY_KID, "recovery")
    try:
        request = keys_pb2.ProposeGenesisRequest(recovery_kid=RECOVERY_KID, recovery_jwk=jwk)
        begun = (await unary(stub.ProposeGenesis, request, policy)).event
    except FailedPreconditionError as error:
        sys.stderr.write(f"there is no key ledger: {error.message}\n")
        return
    await endorse(stub, policy, begun, RECOVERY_KID, uri, data_dir.keys)
    _write_pin(data_dir, thumbprint(orjson.loads(jwk)))


async def _pin_again(data_dir: DataDir, expected: bytes) -> None:
    """Write the pin if it is missing: whoever endorsed the genesis was killed before it did.

    It is made from the recovery key itself. What the registry says of that key, 32 bytes in
    `expected`, is what verifiers are to hold against the pin, and so no source of it.
    """
    if (data_dir.path / PIN_FILE).exists():
        return
    found = b""
    if (data_dir.keys / f"{RECOVERY_KID}.pem").exists():
        try:
            signer = await open_signer(f"local:{RECOVERY_KID}.pem", data_dir.keys)
            found = thumbprint_of(signer.public_key)
            await signer.close()
        except KMSError as error:
            sys.stderr.write(f"the recovery key cannot be read: {error}\n")
    if found == expected:
        _write_pin(data_dir, found)
    else:
        sys.stderr.write(
            f"{data_dir.path / PIN_FILE} is missing, and the recovery key that it is made from is "
            "not here: without it, a key registry that gets lost is taken for a new one. Put it "
            "back from where verifiers have it\n"
        )


def _write_pin(data_dir: DataDir, recovery_thumbprint: bytes) -> None:
    """Write the file that verifiers pin the key ledger by, and say whose thumbprint it is."""
    path = data_dir.keys / f"{RECOVERY_KID}.pem"
    pin = recovery_thumbprint.hex()
    write_atomically(data_dir.path / PIN_FILE, f"{pin}\n".encode(), mode=0o644)
    sys.stderr.write(
        f"{path} is the recovery key: whoever has it can replace every other key. Move it to a "
        "safe place off this machine; `keys revoke --recovery-key FILE` takes it from there. "
        f"Verifiers pin its thumbprint, {pin}\n"
    )


async def endorse(
    stub: Any,
    policy: CallPolicy,
    event: keys_pb2.JournaledKeyEvent,
    kid: str,
    uri: str,
    key_dir: Path,
) -> keys_pb2.JournaledKeyEvent:
    """Endorse a key event with the key at `uri`; the event as it stands then."""
    signer = await open_signer(uri, key_dir)
    try:
        return await endorse_with(stub, policy, event, kid, signer)
    finally:
        await signer.close()


async def endorse_with(
    stub: Any,
    policy: CallPolicy,
    event: keys_pb2.JournaledKeyEvent,
    kid: str,
    signer: Signer,
) -> keys_pb2.JournaledKeyEvent:
    """Endorse a key event with a key that is open; the event as it stands then."""
    sig = await sign_key_event(signer, event_from_pb(event.event))
    endorsement = keys_pb2.KeyEndorsement(
        kid=kid, thumbprint=thumbprint_of(signer.public_key), sig=sig
    )
    request = keys_pb2.EndorseKeyEventRequest(digest=event.digest, endorsements=[endorsement])
    answer: keys_pb2.EndorseKeyEventResponse = await unary(stub.EndorseKeyEvent, request, policy)
    return answer.event


async def local_key(data_dir: DataDir, kid: str, purpose: str) -> tuple[str, bytes]:
    """Make the key file of `kid`, or take the one that is there; its URI and public JWK.

    What signs for `purpose` decides the algorithm, where FIPS mode leaves a choice at all.
    """
    name = f"{kid}.pem"
    uri = f"local:{name}"
    try:
        public_key = create_key(data_dir.keys / name, Algorithm(algorithm_for(purpose)))
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
