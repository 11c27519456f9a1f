"""The ledger a command writes to: named, and made where that is allowed."""

from __future__ import annotations

from provledger import names
from provledger.errors import NotFoundError
from provledger_cli import output
from provledger_cli.connect import Remote


async def ensure_ledger(remote: Remote, tenant: str, ledger: str, *, create: bool = False) -> str:
    """The full name of a ledger; one that is missing is made and told, where that is allowed.

    create: on services elsewhere too, where a slip in a name would else begin a ledger for good.

    Raises:
        IdentifierError: for ids that cannot be.
        NotFoundError: if it is missing, on services elsewhere without `create`.
    """
    name = names.ledger_name(tenant, ledger)
    if not remote.target.embedded:
        # Asked first: who may append to it may not be allowed to make one.
        try:
            await remote.client.get_ledger(name)
            return name
        except NotFoundError:
            if not create:
                raise
    _, created = await remote.client.create_ledger(tenant, ledger)
    if created:
        output.say(f"made ledger [bold]{output.literal(name)}[/], which was not there yet")
    return name
