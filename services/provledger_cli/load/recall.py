"""Asks the ledgers, after a load, for what they acknowledged: `provledger load --check`.

All of it is listed and held against what the client processes kept (`kept`). A sample is read back,
with what there is of proofs, and verified. A service that was killed may be on its way back: each
call is tried again for as long as `--timeout` says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from provledger.client import AsyncClient, CallPolicy, ReceiptFilter
from provledger.errors import ProvledgerError, StatusError, VerificationError
from provledger.keyset import KeySet
from provledger.verify import Verifier
from provledger_cli.connect import Target
from provledger_cli.load.judge import Finding
from provledger_cli.load.kept import Acknowledged, Kept, Recall

MOST_READ: Final = 200
"""Receipts of each ledger that are read back and verified, at most."""
_MOST_SHOWN: Final = 3
_PAGE: Final = 1000
_DENIALS: Final = frozenset({"NOT_FOUND", "DATA_LOSS", "FAILED_PRECONDITION"})
"""Codes by which a ledger says that it does not have what it acknowledged, or not as it was.

All others say nothing of what is there, such as those of a service that is away, of a proxy, or of
whoever may not ask.
"""


async def recall(where: Target, kept: Mapping[str, Kept], timeout_s: float) -> list[Finding]:
    """A finding about each ledger that acknowledged something."""
    keys_endpoint = where.addresses.get("keys", "")
    policy = CallPolicy(timeout_s=timeout_s)
    async with AsyncClient(
        where.addresses["ledger"], keys_endpoint=keys_endpoint, tls=where.tls, policy=policy
    ) as client:
        return [
            await _one(client, ledger, each, verify=bool(keys_endpoint))
            for ledger, each in sorted(kept.items())
        ]


async def _one(client: AsyncClient, ledger: str, kept: Kept, *, verify: bool) -> Finding:
    check = f"acknowledged by {ledger}"
    what = f"{kept.count} receipts up to seq {kept.highest_seq}"
    problems: list[str] = []
    unknown = ""
    try:
        await _list(client, ledger, kept, problems)
        if verify:
            await _read_back(client, kept, problems)
    except ProvledgerError as error:
        unknown = str(error) or type(error).__name__
    if problems:
        # What was found is lost, whatever became of the rest.
        rest = [f"could not tell of the rest: {unknown}"] if unknown else []
        return Finding(check, "does not hold", f"{what}: {'; '.join(problems + rest)}")
    if unknown:
        return Finding(check, "could not tell", f"{what}: {unknown}")
    if not verify:
        why = "none was verified, for no keys service is named: --endpoint keys=HOST:PORT"
        return Finding(check, "could not tell", f"{what} are there; {why}")
    read = len(_chosen(kept.sample))
    return Finding(check, "holds", f"{what} are there, {read} of them read back and verified")


async def _list(client: AsyncClient, ledger: str, kept: Kept, problems: list[str]) -> None:
    """Add to `problems` what the list tells, as far as it came."""
    recalled = Recall(kept)
    where = ReceiptFilter(start_t_ns=kept.start_t_ns)
    try:
        async for each in client.list_summaries(ledger, where, page_size=_PAGE):
            recalled.see(each.seq, each.receipt_hash)
            if each.seq >= kept.highest_seq:
                break
    except ProvledgerError as error:
        problems += recalled.problems(cut_off=True)
        if not (isinstance(error, StatusError) and error.code in _DENIALS):
            raise
        problems.append(f"{error.reason}: {error.message}")
    else:
        problems += recalled.problems()


async def _read_back(client: AsyncClient, kept: Kept, problems: list[str]) -> None:
    """Add to `problems` what the sample tells, as far as it could be had."""
    verifier = Verifier(KeySet.parse(await client.jwks()))
    most = len(problems) + _MOST_SHOWN
    for item in _chosen(kept.sample):
        problem = await _read_one(client, verifier, item)
        if problem and len(problems) < most:
            problems.append(problem)


async def _read_one(client: AsyncClient, verifier: Verifier, item: Acknowledged) -> str:
    try:
        receipt = await client.get_receipt(item.name)
        verifier.verify(receipt)
    except VerificationError as error:
        return f"seq {item.seq} does not verify: {error}"
    except StatusError as error:
        if error.code not in _DENIALS:
            raise
        return f"seq {item.seq} is refused: {error.reason}"
    if (receipt.seq, receipt.receipt_hash.hex()) != item[1:]:
        return f"seq {item.seq} is another one than was acknowledged"
    return ""


def _chosen(sample: Sequence[Acknowledged]) -> Sequence[Acknowledged]:
    """At most `MOST_READ`, spread over all processes."""
    every = max(1, -(-len(sample) // MOST_READ))
    return list(itertools.islice(sample, 0, None, every))
