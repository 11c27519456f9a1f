"""WITNESS_PRIVATE_KEY: a witness key that is there already, for those who come from it.

The variable holds a private key in PEM (its line ends may be written `\\n`), or the path of a file
that does. At the first `provledger up` it becomes the installation's first witness key, as a
`local:` key: a file is used where it is, under the rules for key files; PEM text is put into the
data directory, once, with mode 0600. It is not passed on to the services, which open the file.

Trust: the environment of a process can be read by all of its user's as long as it runs. So `up`
takes the variable out of its own before it starts anything, hands it to the supervisor by a pipe,
and only the short-lived process that registers the first keys has it in its environment again.
What cannot be taken back is what `up` was started with: `up --foreground` keeps that to its end.

Later it has no effect: a key is then changed by `keys rotate`, which old receipts survive.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path

import orjson

from provledger.errors import KMSError
from provledger.jwk import Algorithm, jwk_from_public_key
from provledger.kms import open_signer
from provledger.kms.errors import KMSConfigError, KMSKeyExistsError
from provledger.kms.local import read_pem, store_key
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.embedded.launching import WITNESS_PRIVATE_KEY as VARIABLE
from provledger_cli.failures import CommandError


def pop(environment: MutableMapping[str, str], *, fips: bool = False) -> str:
    """Take the variable out of `environment`, see that it can be used, and return what it gives.

    That is "" for nothing, PEM text, or a path, which is absolute: the services work elsewhere. In
    FIPS mode, which we are not in ourselves, the key has to be P-256 or P-384.

    Raises:
        CommandError: it cannot; what it holds is not repeated.
    """
    given = environment.pop(VARIABLE, "")
    if not given:
        return ""
    try:
        if _is_pem(given):
            algorithm = read_pem(VARIABLE, _pem(given)).algorithm
        else:
            path = Path(given).expanduser().absolute()
            _check_path(path)
            given = str(path)
            algorithm = asyncio.run(open_signer(f"local:{path}", path.parent)).algorithm
        if fips and algorithm not in (Algorithm.ECDSA_P256, Algorithm.ECDSA_P384):
            raise KMSConfigError(
                f"it is {algorithm}, and in FIPS mode statements are signed by P-256 or P-384"
            )
    except KMSError as error:
        raise CommandError(
            f"{VARIABLE} cannot be used: {error}",
            hint="it must hold a private key in PKCS#8 PEM, or the path of a file that does; "
            "unset it to have a new key made",
        ) from None
    return given


async def take(data_dir: DataDir, kid: str, given: str) -> tuple[str, bytes]:
    """Make what the variable gives the key file of `kid`; its URI and public JWK.

    Raises:
        KMSError: it cannot be used, or the data directory has another key of that name.
    """
    uri = f"local:{given}"
    if _is_pem(given):
        key = read_pem(VARIABLE, _pem(given))
        uri, path = f"local:{kid}.pem", data_dir.keys / f"{kid}.pem"
        try:
            store_key(path, key)
        except KMSKeyExistsError:
            jwk = jwk_from_public_key(key.public_key)
            if jwk_from_public_key((await open_signer(uri, data_dir.keys)).public_key) != jwk:
                raise
    return uri, await _public(uri, data_dir.keys)


async def _public(uri: str, key_dir: Path) -> bytes:
    signer = await open_signer(uri, key_dir)
    try:
        return orjson.dumps(jwk_from_public_key(signer.public_key))
    finally:
        await signer.close()


def _check_path(path: Path) -> None:
    # It goes into the registry as a key URI, where a question mark begins the query.
    _, question, query = str(path).partition("?")
    if question and not query.startswith("passphrase-file="):
        raise KMSConfigError(f"{path}: no name on its path may have a question mark; move it")


def _is_pem(given: str) -> bool:
    return given.lstrip().startswith("-----BEGIN")


def _pem(given: str) -> bytes:
    # Variables are often written in one line.
    return given.strip().replace("\\n", "\n").encode() + b"\n"
