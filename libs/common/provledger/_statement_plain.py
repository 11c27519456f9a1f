r"""Reading a statement that holds no escape: one look at its whole text.

The text of a statement is a template with holes (`provledger.statement` draws it). Where no string
in it needs a backslash, as in nearly every statement, a text that fits the template is canonical:
members are named once, in order, and every string has only this spelling. Anything else is for the
reader in `provledger.statement`, which says what is wrong.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

# What RFC 8785 §3.2.2.2 writes as it is.
_TEXT: Final = r'[^"\\\x00-\x1f]'
_ANY: Final = f'"({_TEXT}*)"'
_SAID: Final = f'"({_TEXT}+)"'  # left out where it would be empty
_CHECK: Final = rf'\{{"name":"{_TEXT}*","result":"{_TEXT}*","version":"{_TEXT}*"\}}'
_EVENTS: Final = rf'"{_TEXT}*"(?:,"{_TEXT}*")*'
_DECIMAL: Final = "(0|[1-9][0-9]{0,18})"


def _hex(length: int) -> str:
    return f'"([0-9a-f]{{{2 * length}}})"'


_STATEMENT: Final = re.compile(
    r'\{"_type":"https://in-toto\.io/Statement/v1","predicate":\{'
    rf'(?:"action":{_SAID},)?'
    rf'"actor":\{{"id":{_ANY}(?:,"type":{_SAID})?\}},'
    rf'"checks":(\[(?:{_CHECK}(?:,{_CHECK})*)?\]),'
    rf'"commitmentProfile":"(fields-v1|blob-v1)","ledger":{_ANY},"ledgerUid":{_hex(16)},'
    rf'"mediaType":{_ANY},'
    rf'(?:"occurredAt":{_SAID},)?(?:"opId":{_SAID},)?(?:"opParentId":{_SAID},)?'
    rf'(?:"origin":\{{(?!\}})(?:"service":{_SAID}(?:,(?!\}})|(?=\}})))?'
    rf'(?:"traceId":{_SAID}(?:,(?!\}})|(?=\}})))?(?:"upstream":(\[{_EVENTS}\]))?\}},)?'
    rf'"principal":{_ANY},"receiptId":{_ANY},"receiptType":{_ANY},"requestId":{_ANY},'
    rf'"resourceId":{_ANY},"resourceType":{_ANY},"salt":{_hex(16)},'
    rf'"witnessedAtNs":"{_DECIMAL}"\}},'
    r'"predicateType":"urn:provledger:statement:v1",'
    rf'"subject":\[\{{"digest":\{{"(provledger[A-Za-z0-9]+)":{_hex(32)}\}},"name":{_ANY}\}}\]\}}'
)

Members = tuple[str, ...]
"""The holes, in the order of the template; "" for what is left out."""


def match(data: bytes) -> Members | None:
    """Return the holes of the template, or None if the text does not fit it."""
    try:
        found = _STATEMENT.fullmatch(data.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    return None if found is None else found.groups("")


def events(text: str) -> tuple[str, ...]:
    """Return the upstream events in the text of that member, "" for none."""
    return tuple(orjson.loads(text)) if text else ()
