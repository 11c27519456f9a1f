"""The call to the witness, and what is believed of its answer.

The witness is trusted to check drafts and to sign. Whether its answer hangs together is checked
here all the same, before anything of it is stored: the body is of our suite, its root is that of
the leaf hashes, and every statement is the leaf it claims to be. Whether it is that of its draft is
asked by `ledger_svc.stated`, who signed by `ledger_svc.witness_keys`. Reads of the clock and
randomness are the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

from ledger_svc.batch_tree import siblings_of
from ledger_svc.chain import Candidate, LedgerInfo, Seal, split_hashes
from ledger_svc.order import Order
from ledger_svc.stated import Stated, refuse_answer
from provledger import logs
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import InputError, InvalidProofError, StatusError
from provledger.hashing import suite as get_suite
from provledger.merkle import leaf_hashes as hash_leaves
from provledger.rpc.channel import call
from provledger.rpc.errors import naming, status_from_pb
from provledger.witness_batch import STATEMENT_CONTEXT, batch_root, parse_body

log = logs.get(__name__)

SUITES_TO_PB: Final = {
    "blake3": common_pb2.SUITE_BLAKE3,
    "blake3-all": common_pb2.SUITE_BLAKE3_ALL,
    "fips": common_pb2.SUITE_FIPS,
}
_STEP_ITEMS: Final = 250


class WitnessStub(Protocol):
    """What we call of the generated `WitnessServiceStub`."""

    WitnessBatch: Callable[..., Awaitable[witness_pb2.WitnessBatchResponse]]


class Pending:
    """An admitted draft on its way through the pipeline.

    `receipt_id`, 16 bytes, is given once and kept: it tells a lost answer from a repeat. `ref` is
    the caller's span, None while tracing is off. `since_s` is when it was admitted, by
    `time.perf_counter`. `order` is that of the drafts it must not overtake, if there are any, and
    `place` its place there.
    """

    __slots__ = (
        "draft",
        "order",
        "place",
        "principal",
        "receipt_id",
        "ref",
        "since_s",
        "size_bytes",
    )

    def __init__(
        self,
        draft: common_pb2.Draft,
        principal: str,
        size_bytes: int,
        ref: object = None,
        order: Order | None = None,
    ) -> None:
        self.draft = draft
        self.order = order
        self.place = 0 if order is None else order.next_place()
        self.principal = principal
        self.size_bytes = size_bytes
        self.ref = ref
        self.receipt_id = b""
        self.since_s = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Witnessed:
    """The witness's answer for a flush: the seal, None if nothing passed, and for each item the
    candidate that passed or the reason it was refused for."""

    seal: Seal | None
    results: Sequence[Candidate | StatusError]


class WitnessClient:
    """Asks the witness, with a deadline and bounded retries."""

    def __init__(self, stub: Any, *, timeout_s: float) -> None:
        self._stub: WitnessStub = stub
        self._timeout_s = timeout_s
        self._away = False

    async def witness(
        self, ledger: LedgerInfo, items: Sequence[Pending], *, system: bool = False
    ) -> Witnessed:
        """Have the drafts checked and signed.

        Raises:
            UnavailableError, ResourceExhaustedError, DeadlineExceededError: the witness is away
                or busy. Nothing was written.
            InternalError: its answer does not hang together.
        """
        request = build_request(ledger, items, system=system)
        try:
            response = await call(self._stub.WitnessBatch, request, timeout_s=self._timeout_s)
        except StatusError as error:
            self._note(error)
            raise naming(error, "WITNESS_UNAVAILABLE", "the witness service") from error
        self._note(None)
        steps = reading(ledger, items, response, opens=system)
        while True:
            try:
                next(steps)
            except StopIteration as read:
                witnessed: Witnessed = read.value
                return witnessed
            # A thousand statements are eight milliseconds of work: others have their turn.
            await asyncio.sleep(0)

    def _note(self, error: StatusError | None) -> None:
        """Log when the witness goes away, and when it is back: not each call in between."""
        away = error is not None and error.code == "UNAVAILABLE"
        if away and not self._away:
            log.warning("witness.away", message=str(error))
        elif self._away and error is None:
            log.info("witness.back")
        self._away = away


def build_request(
    ledger: LedgerInfo, items: Sequence[Pending], *, system: bool
) -> witness_pb2.WitnessBatchRequest:
    """The request for a flush."""
    request = witness_pb2.WitnessBatchRequest(
        ledger=ledger.name, ledger_uid=ledger.uid, suite=SUITES_TO_PB[ledger.suite], system=system
    )
    add = request.items.add
    for item in items:
        add(receipt_id=item.receipt_id, principal=item.principal, draft=item.draft)
    return request


def read_response(
    ledger: LedgerInfo,
    items: Sequence[Pending],
    response: witness_pb2.WitnessBatchResponse,
    *,
    opens: bool = False,
) -> Witnessed:
    """Check an answer and take it apart, all at once; see `reading`."""
    steps = reading(ledger, items, response, opens=opens)
    while True:
        try:
            next(steps)
        except StopIteration as read:
            witnessed: Witnessed = read.value
            return witnessed


def reading(
    ledger: LedgerInfo,
    items: Sequence[Pending],
    response: witness_pb2.WitnessBatchResponse,
    *,
    opens: bool = False,
) -> Generator[None, None, Witnessed]:
    """Check an answer and take it apart, in steps of some milliseconds.

    opens: whether JSON documents, too, must open their commitments (`ledger_svc.stated`).

    Raises:
        InternalError: it does not hang together.
    """
    if len(response.results) != len(items):
        raise refuse_answer("it has another number of results")
    try:
        leaves = split_hashes(response.leaf_hashes)
    except InvalidProofError as error:
        raise refuse_answer("its leaf hashes are not 32 bytes each") from error
    stated = Stated(ledger, opens=opens)
    results: list[Candidate | StatusError] = []
    statements: list[bytes] = []
    claimed: list[bytes] = []
    for count, (item, result) in enumerate(zip(items, response.results, strict=True), start=1):
        if count % _STEP_ITEMS == 0:
            yield
        if result.HasField("witnessed"):
            witnessed = result.witnessed
            if witnessed.batch_index >= len(leaves):
                raise refuse_answer("a statement lies outside of its batch")
            candidate = stated.candidate(
                item.draft,
                item.receipt_id,
                item.principal,
                witnessed,
                leaves[witnessed.batch_index],
            )
            statements.append(STATEMENT_CONTEXT + candidate.statement)
            claimed.append(candidate.leaf_hash)
            results.append(candidate)
        elif result.HasField("rejection"):
            results.append(status_from_pb(result.rejection))
        else:
            raise refuse_answer("a result says nothing")
    if not statements:
        return Witnessed(None, results)
    for start in range(0, len(statements), _STEP_ITEMS):
        end = start + _STEP_ITEMS
        if hash_leaves(statements[start:end], get_suite(ledger.suite).H) != claimed[start:end]:
            raise refuse_answer("a statement is not the leaf it claims to be")
        yield
    places = [result.batch_index for result in results if isinstance(result, Candidate)]
    if any(left >= right for left, right in pairwise(places)):
        raise refuse_answer("two statements are at one place, or not in order")
    return Witnessed(_seal(ledger, response, leaves, min(places), max(places) + 1), results)


def _seal(
    ledger: LedgerInfo,
    response: witness_pb2.WitnessBatchResponse,
    leaves: list[bytes],
    first: int,
    end: int,
) -> Seal:
    """The signature, with our part of the tree: leaves `first` to before `end`."""
    try:
        body = parse_body(response.body)
    except InputError as error:
        raise refuse_answer("its body is not one of a witness batch") from error
    if body.suite != ledger.suite or body.size != len(leaves):
        raise refuse_answer("its body is of another suite or size")
    if body.root != batch_root(ledger.suite, leaves):
        raise refuse_answer("its root is not that of its leaves")
    said = (response.kid, response.epoch, response.signed_at_ns)
    if said != (body.kid, body.epoch, body.signed_at_ns) or not response.sig:
        raise refuse_answer("it says something else than what is signed")
    return Seal(
        suite=body.suite,
        body=response.body,
        sig=response.sig,
        first_index=first,
        leaf_hashes=b"".join(leaves[first:end]),
        siblings=b"".join(siblings_of(leaves, first, end, get_suite(ledger.suite).H)),
        kid=body.kid,
        epoch=body.epoch,
        thumbprint=body.thumbprint,
        signed_at_ns=body.signed_at_ns,
    )
