"""What the fuzzer sees into. Nothing of it may be imported before it is instrumented."""

from __future__ import annotations

from typing import Final

INSTRUMENTED: Final = [
    "provledger",
    "anchor_svc",
    "gateway_svc",
    "keys_svc",
    "ledger_svc",
    "notary_svc",
    "witness_svc",
    "provledger_cli",
    "rfc8785",
]
