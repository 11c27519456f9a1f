"""The ledger a command writes to: named, and made where the embedded default allows it."""

from __future__ import annotations

from provledger import names
from provledger_cli import output
from provledger_cli.connect import Remote


async def ensure_ledger(remote: Remote, tenant: str, ledger: str) -> str:
    """The full name of a ledger; on the embedded default, one that is missing is made and told.

    Raises:
        IdentifierError: for ids that cannot be.
        NotFoundError: if it is missing, on services elsewhere.
    """
    name = names.ledger_name(tenant, ledger)
    if not remote.target.embedded:
        await remote.client.get_ledger(name)
        return name
    _, created = await remote.client.create_ledger(tenant, ledger)
    if created:
        output.say(f"made ledger [bold]{output.literal(name)}[/], which was not there yet")
    return name
