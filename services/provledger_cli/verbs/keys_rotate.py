"""`keys rotate`: replace the active key of a purpose, with no failed write."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger import names
from provledger_cli import output
from provledger_cli.failures import CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)
from provledger_cli.verbs.keys_list import Purpose

if TYPE_CHECKING:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.connect import Remote, Target


def rotate(
    kid: Annotated[
        str,
        typer.Option(
            "--kid",
            envvar="PROVLEDGER_KID",
            help="Key id of the new key; never one that was used before.",
            show_default=False,
        ),
    ],
    purpose: Annotated[
        Purpose,
        typer.Option("--purpose", envvar="PROVLEDGER_PURPOSE", help="What it signs."),
    ] = Purpose.WITNESS,
    uri: Annotated[
        str,
        typer.Option(
            "--uri",
            envvar="PROVLEDGER_ROTATE_URI",
            help="A key that its signing service can open already, such as local:new.pem; needs "
            "--jwk. Default: a new key file in the data directory.",
            show_default=False,
        ),
    ] = "",
    jwk: Annotated[
        Path | None,
        typer.Option(
            "--jwk",
            envvar="PROVLEDGER_ROTATE_JWK",
            help="Public half of the key at --uri, as JWK.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 30.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make another key the active one of its purpose; the old one stays valid while it drains.

    No write fails meanwhile. Running it again with the same --kid ends a rotation that was
    interrupted. Give verifiers a new JWK Set afterwards: keys jwks --out jwks.json

    Example: keys rotate --kid witness-2
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.registry import key_document, purpose_name

    output.use_json(as_json)
    names.check_kid(kid)
    if bool(uri) != (jwk is not None):
        raise CommandError("--uri and --jwk go together", hint="give both, or neither")
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    if not where.embedded and not uri:
        raise CommandError(
            "on services elsewhere, the key must be where its signing service can open it",
            hint="put it there, then give --uri and --jwk",
        )
    public = jwk.read_bytes() if jwk is not None else b""
    started_s = time.monotonic()
    answer = run_async(_rotate(where, kid, purpose, uri, public, timeout))
    seconds = time.monotonic() - started_s
    previous = answer.previous if answer.HasField("previous") else None
    if as_json:
        output.document(_document(answer, seconds, key_document))
        return
    came_from = f", after {previous.kid} (draining)" if previous is not None else ""
    output.show(
        f"[bold]{answer.key.kid}[/] is the active {purpose_name(answer.key)} key, "
        f"epoch {answer.key.epoch}{came_from}; {output.seconds(seconds)}"
    )
    output.say("[bold]next:[/] give verifiers the new keys: keys jwks --out jwks.json")


def _document(answer: keys_pb2.RotateKeyResponse, seconds: float, as_dict: Any) -> dict[str, Any]:
    return {
        "key": as_dict(answer.key),
        "previous": as_dict(answer.previous) if answer.HasField("previous") else None,
        "seconds": round(seconds, 3),
    }


async def _rotate(
    where: Target, kid: str, purpose: Purpose, uri: str, jwk: bytes, timeout_s: float
) -> keys_pb2.RotateKeyResponse:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.bootstrap import local_key
    from provledger_cli.connect import Remote
    from provledger_cli.registry import PURPOSES

    async with Remote(where, timeout_s=timeout_s) as remote:
        if not uri:
            # A key id that is taken must not leave a key file behind.
            await _check_unused(remote, kid, purpose)
            uri, jwk = await local_key(where.data_dir, kid)
        request = keys_pb2.RotateKeyRequest(kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk)
        answer: keys_pb2.RotateKeyResponse = await remote.call(remote.keys.RotateKey, request)
        await _wait_until_active(remote, kid, timeout_s)
        return answer


async def _check_unused(remote: Remote, kid: str, purpose: Purpose) -> None:
    from provledger.api.keys.v1 import keys_pb2
    from provledger.errors import NotFoundError
    from provledger_cli.registry import purpose_name, state_name

    try:
        request = keys_pb2.GetKeyRequest(name=f"keys/{kid}")
        known: keys_pb2.Key = (await remote.call(remote.keys.GetKey, request)).key
    except NotFoundError:
        return
    if purpose_name(known) != purpose or state_name(known) not in ("pending", "active"):
        raise CommandError(
            f"{kid} was used already: a {state_name(known)} {purpose_name(known)} key",
            hint="key ids are never used again: choose another --kid",
        )


async def _wait_until_active(remote: Remote, kid: str, timeout_s: float) -> None:
    """Wait until the published key set says so, which is what everybody else sees."""
    from provledger.api.keys.v1 import keys_pb2
    from provledger.keyset import KeySet, KeyState

    deadline_s = time.monotonic() + timeout_s
    while True:
        answer: keys_pb2.GetJwksResponse = await remote.call(
            remote.keys.GetJwks, keys_pb2.GetJwksRequest()
        )
        states = {key.kid: key.state for key in KeySet.parse(answer.jwks)}
        if states.get(kid) is KeyState.ACTIVE:
            return
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"{kid} is not active after {timeout_s:.0f} s",
                hint="see `keys list`; running the same command again goes on",
            )
        await asyncio.sleep(0.1)
