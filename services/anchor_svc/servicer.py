"""The RPCs of `provledger.api.anchor.v1.AnchorService`: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from anchor_svc import convert
from anchor_svc.keys import Keys, vkey
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import DamagedLog, OpenLogs
from anchor_svc.pieces import Pieces
from provledger import logs as logging
from provledger import names
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    StatusError,
    UnavailableError,
    UnimplementedError,
)
from provledger.key_events import EventType, KeyEvent
from provledger.keyring import ActiveSigner, KeyRing
from provledger.keyset import KeyPurpose
from provledger.rpc.auth import current_principal
from provledger.rpc.key_events import endorsement_to_pb, event_from_pb

Context = Any

_log = logging.get(__name__)


class AnchorServicer(anchor_pb2_grpc.AnchorServiceServicer):
    """Answers for the logs of this process."""

    def __init__(self, logs: OpenLogs, keys: Keys, ring: KeyRing | None = None) -> None:
        self._logs = logs
        self._keys = keys
        self._ring = ring
        self._last_key: ActiveSigner | None = None
        self._pieces = Pieces()

    def close(self) -> None:
        """Let the threads end that read for its callers."""
        self._pieces.close()

    async def GetLog(self, request: pb.GetLogRequest, context: Context) -> pb.GetLogResponse:
        """Return a log and where it stands."""
        log = self._log(request.name, "name")
        count = await self._logs.ledger_count() if request.count_ledgers else 0
        shown = self._log_to_pb(log, with_tenants=request.with_tenants)
        return pb.GetLogResponse(log=shown, ledger_count=count)

    async def ListLogs(self, request: pb.ListLogsRequest, context: Context) -> pb.ListLogsResponse:
        """List the logs of this process, damaged ones too; and first those that are lost."""
        after, limit = convert.log_page_from_pb(request)
        found: dict[bytes, OpenLog | DamagedLog] = {
            **{log.identity.uid: log for log in self._logs.all()},
            **{damaged.row.log_uid: damaged for damaged in self._logs.damaged()},
        }
        following = sorted(uid for uid in found if uid > after)
        shown = [convert.listed_to_pb(found[uid]) for uid in following[:limit]]
        lost = [] if after else self._logs.lost()
        return convert.log_page_to_pb(shown, lost, more=len(following) > limit)

    async def GetTile(self, request: pb.GetTileRequest, context: Context) -> pb.GetTileResponse:
        """Return a tile that is published, or a piece of it."""
        log = self._log(request.log)
        tile, offset, max_bytes = convert.tile_from_pb(request)
        piece = await self._pieces.read(log.store, log.state, tile, offset, max_bytes)
        return pb.GetTileResponse(data=piece.data, total_bytes=piece.total, digest=piece.digest)

    async def CreateLog(
        self, request: pb.CreateLogRequest, context: Context
    ) -> pb.CreateLogResponse:
        """Give a tenant a log of its own, or return the one it has."""
        names.parse_tenant_name(request.tenant, "tenant")
        suite_name = convert.suite_from_pb(request.suite)
        kept_for = convert.kept_for_from_pb(request.kept_for)
        log, created = await self._logs.create(request.tenant, suite_name, kept_for)
        return pb.CreateLogResponse(log=self._log_to_pb(log), created=created)

    async def SubmitLeaves(
        self, request: pb.SubmitLeavesRequest, context: Context
    ) -> pb.SubmitLeavesResponse:
        """Log the next entries of a ledger; answer when a signed checkpoint covers them."""
        log = self._log(request.log)
        submission = convert.submission_from_pb(request, log.identity.hasher)
        # Proofs are for those who wait: the ledger submits its next entries once it has these.
        outcome = await log.submit(submission, urgent=request.with_proofs)
        response = pb.SubmitLeavesResponse(
            runs=convert.runs_to_pb(outcome.runs), tree_size=outcome.tree_size
        )
        if request.with_proofs:
            try:
                proven = await log.reader.just_logged(submission, outcome.runs)
            except StatusError as error:
                # It is logged all the same; whoever asks for a proof hears what is wrong.
                _log.warning("anchor.not_proven", reason=error.reason)
            else:
                response.proofs.CopyFrom(convert.batch_to_pb(log.identity, proven))
        return response

    async def GetLedgerState(
        self, request: pb.GetLedgerStateRequest, context: Context
    ) -> pb.GetLedgerStateResponse:
        """Return how far the log holds a ledger."""
        log = self._log(request.log)
        uid = convert.ledger_uid_from_pb(request.ledger_uid)
        # A ledger that hears how far it is begins to append.
        log.state.check_held()
        state = await log.reader.ledger_state(uid)
        return convert.ledger_state_to_pb(state, log.state.signed_size)

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """Prove that one entry is in the log."""
        log = self._log(request.log)
        index = convert.size_from_pb(request.log_index, "log_index")
        size = convert.size_from_pb(request.tree_size, "tree_size")
        tenant = convert.tenant_from_pb(request.tenant)
        proven = await log.reader.inclusion(index, size, tenant)
        return convert.inclusion_to_pb(log.identity, proven)

    async def GetCoseReceipt(
        self, request: pb.GetCoseReceiptRequest, context: Context
    ) -> pb.GetCoseReceiptResponse:
        """Prove that one entry is in the log, by a COSE receipt."""
        log = self._log(request.log)
        index = convert.size_from_pb(request.log_index, "log_index")
        size = convert.size_from_pb(request.tree_size, "tree_size")
        receipt, tree_size = await log.receipts.get(index, size)
        return pb.GetCoseReceiptResponse(receipt=receipt, tree_size=tree_size)

    async def BatchGetInclusionProofs(
        self, request: pb.BatchGetInclusionProofsRequest, context: Context
    ) -> pb.BatchGetInclusionProofsResponse:
        """Prove that entries of a ledger are in the log, all against one checkpoint."""
        log = self._log(request.log)
        uid = convert.ledger_uid_from_pb(request.ledger_uid)
        seqs = convert.seqs_from_pb(request.seqs)
        size = convert.size_from_pb(request.tree_size, "tree_size")
        tenant = convert.tenant_from_pb(request.tenant)
        proven = await log.reader.batch_inclusion(uid, seqs, size, tenant)
        return convert.batch_to_pb(log.identity, proven)

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """Prove that one tree extends another."""
        log = self._log(request.log)
        old_size = convert.size_from_pb(request.old_size, "old_size", least=1)
        new_size = convert.size_from_pb(request.new_size, "new_size")
        hashes, size = await log.reader.consistency(old_size, new_size)
        return pb.GetConsistencyProofResponse(hashes=hashes, new_size=size)

    async def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: Context
    ) -> pb.GetCheckpointResponse:
        """Return a signed checkpoint."""
        log = self._log(request.log)
        size = convert.size_from_pb(request.tree_size, "tree_size")
        checkpoint = await log.reader.checkpoint(size, published=request.published)
        published = request.published or await log.reader.is_published(checkpoint.size)
        return pb.GetCheckpointResponse(
            checkpoint=checkpoint.note, tree_size=checkpoint.size, published=published
        )

    async def WatchCheckpoints(
        self, request: pb.WatchCheckpointsRequest, context: Context
    ) -> AsyncIterator[pb.WatchCheckpointsResponse]:
        """Send the newest checkpoint, and again whenever it or the anchored size moves on."""
        log = self._log(request.log)
        tenant = convert.tenant_from_pb(request.tenant)
        watch = log.watch(published=request.published, tenant=tenant)
        async with aclosing(watch) as checkpoints:  # type: ignore[type-var]
            async for checkpoint, promise in checkpoints:
                yield convert.watch_to_pb(
                    checkpoint, promise.anchored_size, convert.promise_to_pb(promise)
                )

    async def GetLedgerHead(
        self, request: pb.GetLedgerHeadRequest, context: Context
    ) -> pb.GetLedgerHeadResponse:
        """Sign and return the head of a ledger as of a checkpoint."""
        log = self._log(request.log)
        uid = convert.ledger_uid_from_pb(request.ledger_uid)
        size = convert.size_from_pb(request.tree_size, "tree_size")
        head, checkpoint = await log.reader.ledger_head(uid, size)
        return pb.GetLedgerHeadResponse(head=head, checkpoint=checkpoint.note)

    async def ListAnchors(
        self, request: pb.ListAnchorsRequest, context: Context
    ) -> pb.ListAnchorsResponse:
        """List what sinks hold, newest first."""
        log = self._log(request.log)
        page = convert.anchor_page_from_pb(request, log.identity)
        rows = await log.reader.anchors(page.after, page.sink, page.limit + 1)
        return convert.anchor_page_to_pb(page, log.identity, rows)

    async def ListSinks(
        self, request: pb.ListSinksRequest, context: Context
    ) -> pb.ListSinksResponse:
        """List the sinks of a log, and how each is."""
        log = self._log(request.log)
        return pb.ListSinksResponse(
            sinks=[convert.sink_to_pb(status) for status in await log.relays.status()],
            published_size=log.state.published_size,
            held=convert.held_to_pb(log.state.held),
        )

    async def RetrySink(
        self, request: pb.RetrySinkRequest, context: Context
    ) -> pb.RetrySinkResponse:
        """Make sinks that wait try now."""
        log = self._log(request.log)
        sink = convert.sink_from_pb(request.sink)
        return pb.RetrySinkResponse(sinks=log.relays.retry(sink))

    async def SetPolicy(
        self, request: pb.SetPolicyRequest, context: Context
    ) -> pb.SetPolicyResponse:
        """Have a policy hold from now on."""
        log = self._log(request.log)
        expected = request.expected_version if request.HasField("expected_version") else None
        row = await log.policies.set(
            convert.tenant_from_pb(request.tenant),
            convert.policy_text_from_pb(request.text),
            current_principal(),
            expected_version=expected,
            validate_only=request.validate_only,
        )
        return pb.SetPolicyResponse(policy=convert.policy_row_to_pb(log.identity, row))

    async def GetPolicy(
        self, request: pb.GetPolicyRequest, context: Context
    ) -> pb.GetPolicyResponse:
        """Return the policy that holds, or an earlier version."""
        log = self._log(request.log)
        tenant = convert.tenant_from_pb(request.tenant)
        version = convert.size_from_pb(request.version, "version")
        if not version:
            return convert.policy_to_pb(log, tenant)
        row = await log.policies.version(tenant, version)
        return pb.GetPolicyResponse(
            policy=convert.policy_row_to_pb(log.identity, row),
            source=pb.POLICY_SOURCE_TENANT if tenant else pb.POLICY_SOURCE_LOG,
        )

    async def SignKeyEvent(
        self, request: pb.SignKeyEventRequest, context: Context
    ) -> pb.SignKeyEventResponse:
        """Endorse a key event, whose bytes are built here from its members."""
        if self._ring is None:
            raise UnimplementedError("NO_KEY_RING", "this service holds no key ring")
        self._logs.check_held()
        event = event_from_pb(request.event)
        self._check_sizes(event)
        endorsement = await self._ring.endorse(event, request.kid)
        return pb.SignKeyEventResponse(endorsement=endorsement_to_pb(endorsement))

    def _check_sizes(self, event: KeyEvent) -> None:
        """Refuse an event by which a key begins or ends at a size that its log does not have yet,
        or ends without one.

        The sizes are what this service reported, or smaller ones by now; logs of other anchors may
        be among them.

        Raises:
            FailedPreconditionError: KEY_EVENT_SIZE. Between its size and that one, no signature of
                a key that begins would count, and a key that ends would go on. One that ends
                without any size goes on in all logs, and with sizes of others alone, nothing counts
                any more that it signed in this one.
        """
        signed = {log.identity.origin: log.state.signed_size for log in self._logs.all()}
        for each in event.sizes:
            if each.size > signed.get(each.origin, each.size):
                raise _wrong_size(
                    f"the event names size {each.size} of {each.origin}, of which no more than "
                    f"{signed[each.origin]} is signed",
                    each.origin,
                    signed[each.origin],
                )
        if event.event is not EventType.RETIRED or event.purpose != KeyPurpose.CHECKPOINT:
            return
        named = {each.origin for each in event.sizes}
        for origin, size in signed.items():
            if size and origin not in named:
                raise _wrong_size(
                    f"by the event a checkpoint key ends, and it does not name {origin}, of which "
                    f"{size} is signed",
                    origin,
                    size,
                )

    def _log_to_pb(self, log: OpenLog, *, with_tenants: bool = False) -> pb.Log:
        key = self._checkpoint_key()
        return convert.log_to_pb(
            log.identity,
            tenant=log.tenant,
            vkey=vkey(key, log.identity.origin),
            thumbprint=key.thumbprint,
            size=log.state.signed_size,
            published=log.state.published_size,
            promise=log.state.promise(),
            held=log.state.held,
            tenants=log.state.tenant_promises() if with_tenants else (),
        )

    def _checkpoint_key(self) -> ActiveSigner:
        """The key that signs checkpoints, or while nobody knows, the last one that did."""
        try:
            self._last_key = self._keys.current(KeyPurpose.CHECKPOINT)
        except UnavailableError:
            if self._last_key is None:
                raise
        return self._last_key

    def _log(self, name: str, field: str = "log") -> OpenLog:
        uid = names.parse_log_name(name, field)
        found = self._logs.get(uid)
        if found is None:
            raise NotFoundError("LOG_NOT_FOUND", f"there is no {name} here", metadata={"log": name})
        return found


def _wrong_size(message: str, origin: str, signed_size: int) -> FailedPreconditionError:
    metadata = {"origin": origin, "signedSize": str(signed_size)}
    return FailedPreconditionError("KEY_EVENT_SIZE", message, metadata=metadata)
