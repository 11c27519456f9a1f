"""Verifying a ledger where it is stored: first the rows, by the service; then the receipts, here.

The service recomputes every column of every row, which nobody outside can see. What it serves is
then put through the very verification an export gets, without writing a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from provledger.keyset import KeySet
from provledger.receipt import Receipt
from provledger_cli.connect import Remote, Target
from provledger_cli.transfer.exporting import Lines, Plan, prepare, receipts
from provledger_cli.verifying.checking import Trusted, Verdict, verify_lines


def verify_ledger(
    where: Target,
    ledger: str,
    trusted: Trusted,
    *,
    head: bytes | None,
    checkpoint: bytes | None,
    timeout_s: float,
    on_rows: Callable[[int, int], None],
    on_receipts: Callable[[int, int], None],
) -> Verdict:
    """Verify a ledger of running services, with their JWKS unless `trusted` says otherwise.

    Raises:
        DataLossError: the first stored row that does not hold.
        VerificationError: the first receipt that does not hold.
    """
    with asyncio.Runner() as runner:
        remote = Remote(where, timeout_s=timeout_s)
        try:
            stored = runner.run(remote.client.get_ledger(ledger))
            rows = stored.seq + 1
            report = runner.run(
                remote.client.verify_range(
                    ledger, end_seq=stored.seq, progress=lambda done: on_rows(done, rows)
                )
            )
            known = [] if checkpoint is None else [checkpoint]
            plan = runner.run(
                prepare(
                    remote,
                    ledger,
                    wait_s=timeout_s,
                    known_checkpoints=known,
                    key_ledger=trusted.pin is not None or trusted.key_ledger is not None,
                )
            )
            if trusted.keys is None and trusted.pin is None:
                registered = KeySet.parse(runner.run(remote.client.jwks()))
                trusted = replace(trusted, keys=registered)
            total = plan.last_seq + 1
            verdict = verify_lines(
                _lines(runner, remote, plan),
                trusted,
                head=head,
                checkpoint=checkpoint,
                on_progress=lambda done: on_receipts(done, total),
            )
            on_receipts(total, total)
        finally:
            runner.run(remote.__aexit__(None, None, None))
    verdict.details["stored_rows_checked"] = report.checked_count
    verdict.details["log_places_checked"] = report.places_checked
    return verdict


def _lines(runner: asyncio.Runner, remote: Remote, plan: Plan) -> Iterator[bytes]:
    buffer = Lines()
    writer = plan.begin(buffer)
    pages = receipts(remote, plan)
    while True:
        yield from buffer.take()
        page = runner.run(_page(pages))
        if page is None:
            break
        for receipt in page:
            writer.write(receipt)
    plan.end(writer)
    yield from buffer.take()


async def _page(pages: AsyncIterator[Sequence[Receipt]]) -> Sequence[Receipt] | None:
    return await anext(pages, None)
