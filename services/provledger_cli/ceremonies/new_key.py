"""Where the new key of a rotation comes from: made by this command, never by a service (ADR 0008).

::

    kid is registered already     that key, as it is: the ceremony is resumed
    --uri                         the key there; with --create, made there if it is missing
    neither                       a new key where the current one of the purpose is, of its kind: a
                                  file is encrypted if that one is, under the same passphrase

Making one needs rights that no service has, such as kms:CreateKey: those of the operator, in the
environment of this command. What it makes carries the ceremony's number, which depends only on
the installation, the purpose and the kid. So a command that is killed, or loses an answer, finds
its key again, from whatever machine it is run; no provider is left with keys that nobody knows of.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import orjson

from provledger.api.keys.v1 import keys_pb2
from provledger.errors import KMSError
from provledger.fips import policy
from provledger.jwk import Algorithm, algorithm_of, jwk_from_public_key, public_key_from_jwk
from provledger.kms import registry as kms
from provledger.kms.errors import KMSKeyExistsError, KMSKeyNotFoundError
from provledger.kms.remote import Wanted
from provledger_cli import output
from provledger_cli.ceremonies.registry import list_keys, purpose_name, state_name
from provledger_cli.connect import Remote
from provledger_cli.embedded import config as configs
from provledger_cli.embedded.bootstrap import local_key
from provledger_cli.failures import CommandError

CEREMONY_BYTES: Final = 16


async def new_key(
    remote: Remote,
    kid: str,
    purpose: str,
    *,
    uri: str = "",
    jwk: bytes = b"",
    create: bool = False,
) -> tuple[str, bytes]:
    """The URI and public JWK of the key to rotate to; made here unless it is there already.

    Raises:
        CommandError: the kid was used before, or the key cannot be had; it names the kid.
    """
    keys = await list_keys(remote)
    known = next((key for key in keys if key.kid == kid), None)
    if known is not None:
        _check_usable(known, purpose, uri)
        return known.uri, known.jwk
    if uri and jwk:
        return uri, jwk
    active = next(
        (key for key in keys if purpose_name(key) == purpose and state_name(key) == "active"), None
    )
    try:
        if uri:
            return uri, await _given(remote, uri, _algorithm(active, purpose), create)
        if active is None or active.uri.startswith("local:"):
            return await _local(remote, kid, purpose, active)
        return await _beside(remote, active, Wanted(kid, *_ceremony(keys, purpose, kid)))
    except KMSError as error:
        raise CommandError(
            f"there is no key for {kid} yet: {error}",
            hint="nothing was changed, and the old key signs on; running the same command again "
            "goes on",
        ) from None


def _check_usable(known: keys_pb2.Key, purpose: str, uri: str) -> None:
    same = purpose_name(known) == purpose and state_name(known) in ("pending", "active")
    if not same or (uri and uri != known.uri):
        raise CommandError(
            f"{known.kid} was used already: a {state_name(known)} {purpose_name(known)} key"
            + (f" at {known.uri}" if uri else ""),
            hint="key ids are never used again: choose another --kid",
        )


def _algorithm(active: keys_pb2.Key | None, purpose: str) -> Algorithm:
    """That of the key it replaces, or what signs for the purpose by default."""
    if active is None:
        return Algorithm(policy.algorithm_for(purpose))
    return algorithm_of(public_key_from_jwk(orjson.loads(active.jwk)))


def _ceremony(keys: list[keys_pb2.Key], purpose: str, kid: str) -> tuple[bytes, frozenset[str]]:
    # Listed newest first: the last is the first key there ever was, which names the installation.
    first = bytes(keys[-1].thumbprint)
    text = b"provledger/ceremony/v1\n" + first + f"{purpose}\n{kid}".encode()
    number = hashlib.sha256(text).digest()[:CEREMONY_BYTES]
    return number, frozenset(key.uri for key in keys)


async def _given(remote: Remote, uri: str, algorithm: Algorithm, create: bool) -> bytes:
    """The public JWK of the key at a URI, which this command must be able to open."""
    key_dir = _key_dir(remote)
    try:
        signer = await kms.open_signer(uri, key_dir)
    except KMSKeyNotFoundError:
        if not create:
            raise
        if uri.startswith("local:"):
            _check_module(remote)
        output.say(f"making a key at {output.literal(uri)}")
        return orjson.dumps(jwk_from_public_key(await kms.create_key(uri, algorithm, key_dir)))
    public_key = signer.public_key
    await signer.close()
    return orjson.dumps(jwk_from_public_key(public_key))


async def _beside(remote: Remote, active: keys_pb2.Key, wanted: Wanted) -> tuple[str, bytes]:
    algorithm = algorithm_of(public_key_from_jwk(orjson.loads(active.jwk)))
    made = await kms.create_beside(active.uri, algorithm, _key_dir(remote), wanted)
    what = f"{'found' if made.found else 'made'} {made.uri}, beside {active.kid}"
    output.say(output.literal(what))
    return made.uri, orjson.dumps(jwk_from_public_key(made.public_key))


async def _local(
    remote: Remote, kid: str, purpose: str, active: keys_pb2.Key | None
) -> tuple[str, bytes]:
    """Make a key file, or take the one that is there."""
    if not remote.target.embedded:
        raise CommandError(
            "on services elsewhere, a key file must be where its signing service can open it",
            hint="put it there, then give --uri and --jwk",
        )
    _check_module(remote)
    data_dir = remote.target.data_dir
    if active is None:
        return await local_key(data_dir, kid, purpose)
    algorithm = _algorithm(active, purpose)
    if policy.active() and algorithm not in (Algorithm.ECDSA_P256, Algorithm.ECDSA_P384):
        algorithm = _algorithm(None, purpose)  # what FIPS mode has in its place
    _, question, passphrase_file = active.uri.partition("?")
    uri = f"local:{kid}.pem{question}{passphrase_file}"
    try:
        public_key = await kms.create_key(uri, algorithm, data_dir.keys)
    except KMSKeyExistsError:
        return uri, await _given(remote, uri, algorithm, create=False)
    if question:
        same = f"{kid} is encrypted under the same {passphrase_file} as {active.kid}"
        output.say(output.literal(same))
    return uri, orjson.dumps(jwk_from_public_key(public_key))


def _check_module(remote: Remote) -> None:
    """Refuse to make a key file of a data directory in FIPS mode outside the FIPS module.

    The services could not tell afterwards that a P-256 key was made there.
    """
    config = configs.load(remote.target.data_dir)
    if config is not None and config.fips and not policy.active():
        raise CommandError(
            "this data directory is in FIPS mode, and this command is not",
            hint="set PROVLEDGER_FIPS=1 and run it again",
        )


def _key_dir(remote: Remote) -> Path:
    return remote.target.data_dir.keys
