"""Probes: what `keys rotate` appends meanwhile, to see what callers see, in a ledger of its own.

`tenants/system/ledgers/probes` is the one ledger of the system tenant that callers write to, and
they write nothing into it but this: one document, of the same content each time. So a ceremony
leaves its trace beside the key ledger and in no tenant's ledgers or figures.
"""

from __future__ import annotations

from typing import Final

from provledger.api.common.v1 import common_pb2
from provledger.key_events import TENANT

PROBE_LEDGER: Final = "probes"
PROBE_LEDGER_NAME: Final = f"tenants/{TENANT}/ledgers/{PROBE_LEDGER}"
RECEIPT_TYPE: Final = "ceremony.probe"


def probe_draft(request_id: str) -> common_pb2.Draft:
    """The draft of a probe."""
    return common_pb2.Draft(
        request_id=request_id,
        actor=common_pb2.Actor(id="keys-rotate", type="service"),
        document=common_pb2.Document(
            receipt_type=RECEIPT_TYPE,
            media_type="application/json",
            payload=b"{}",
            resource_type="Probe",
            resource_id="rotation",
        ),
    )


def is_probe(draft: common_pb2.Draft) -> bool:
    """Whether a draft is a probe and nothing more."""
    return draft == probe_draft(draft.request_id)
