"""The tenant `system` is the services' own, but for probes into the ledger of the probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ledger_svc.chain import LedgerInfo
from ledger_svc.key_ledger import check_creatable, check_writable
from provledger.api.common.v1 import common_pb2
from provledger.errors import PermissionDeniedError
from provledger.rpc.probe import probe_draft


def ledger(tenant: str, ledger_id: str) -> LedgerInfo:
    return LedgerInfo(bytes(16), tenant, ledger_id, "blake3", "logs/x", "log.example/1", 0)


def test_probes_go_into_their_own_ledger() -> None:
    check_writable(ledger("system", "probes"), probe_draft("r-1"))
    check_writable(ledger("acme", "probes"), common_pb2.Draft(request_id="r-1"))
    check_creatable("system", "probes")
    check_creatable("acme", "keys")


CHANGES: list[Callable[[common_pb2.Draft], object]] = [
    lambda draft: setattr(draft.document, "receipt_type", "key.revoked"),
    lambda draft: setattr(draft.document, "payload", b'{"a":1}'),
    lambda draft: setattr(draft.document, "resource_id", "else"),
    lambda draft: setattr(draft.actor, "id", "me"),
    lambda draft: setattr(draft, "op_id", "op"),
    lambda draft: draft.mutation.SetInParent(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_else_does(change: Callable[[common_pb2.Draft], object]) -> None:
    draft = probe_draft("r-1")
    change(draft)
    with pytest.raises(PermissionDeniedError):
        check_writable(ledger("system", "probes"), draft)


def test_no_probe_goes_elsewhere_in_the_tenant() -> None:
    with pytest.raises(PermissionDeniedError):
        check_writable(ledger("system", "keys"), probe_draft("r-1"))
    with pytest.raises(PermissionDeniedError):
        check_creatable("system", "main")
