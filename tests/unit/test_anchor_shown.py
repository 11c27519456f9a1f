"""Which evidence is shown to whom: the sinks of others are theirs, one's own are one's own."""

from __future__ import annotations

from anchor_svc.namedsinks import SETTINGS, SETTINGS_SINKS, NamedSinks
from anchor_svc.quorum import MAX_SHOWN, Quorum, named_sinks
from anchor_svc.storage import AnchorRow, PolicyRow
from provledger.policy import parse_policy

SHARED = "file:///base"


def version(tenant: str, number: int, *uris: str) -> PolicyRow:
    lines = [f"sink s{place} {uri}\n" for place, uri in enumerate(uris)]
    return PolicyRow(tenant, number, "".join(lines).encode(), 0, "alice")


def row(uri: str) -> AnchorRow:
    return AnchorRow(1, uri, "file", 0, b"{}")


def test_what_earlier_versions_named_is_of_their_tenant() -> None:
    named = NamedSinks([SHARED])
    for number, uri in enumerate(("file:///a", SHARED, "file:///b"), start=1):
        named.add(version("tenants/acme", number, uri))
    named.add(version("tenants/other", 1, "file:///b", "file:///log"))
    before = named.foreign()
    named.add(version("", 1, "file:///log"))
    foreign = named.foreign()
    assert before.of_tenants == {"file:///a", "file:///b", "file:///log"}
    assert foreign.of_tenants == {"file:///a", "file:///b"}
    assert foreign.owned_by("tenants/acme") == {"file:///a", SHARED, "file:///b"}
    assert foreign.owned_by("tenants/other") == {"file:///b", "file:///log"}
    assert foreign.owned_by("tenants/third") == set()


def test_what_holds_has_the_first_places_and_what_held_once_the_last() -> None:
    earlier = [f"file:///earlier{number}" for number in range(MAX_SHOWN)]
    rows = [row(uri) for uri in (*earlier, SHARED, "file:///theirs", "file:///now")]
    mine = Quorum(None, ["file:///now"])
    foreign = {*earlier, "file:///theirs", "file:///now"}
    shown = [item.sink for item in mine.shown(rows, foreign, {*earlier, "file:///now"})]
    assert shown == ["file:///now", SHARED, *earlier[: MAX_SHOWN - 2]]
    assert [item.sink for item in mine.shown(rows, foreign)] == ["file:///now", SHARED]


def test_sinks_of_the_settings_are_everybodys_when_they_have_left_them() -> None:
    given = ["file:///a", 'file:///b "c"']
    first = NamedSinks(given)
    stored = PolicyRow(SETTINGS_SINKS, 1, first.unstored(), 0, SETTINGS)
    first.add(stored)
    assert not first.unstored()
    # To who does not know the name it is a policy that asks for nothing.
    assert not named_sinks(parse_policy(stored.text))
    later = NamedSinks(["file:///a", "file:///new"])
    strange = [PolicyRow(SETTINGS_SINKS, 2, text, 0, "") for text in (b"", b"# 1\n", b"\xff")]
    for noted in (stored, *strange, version("tenants/acme", 1, "file:///own", *given)):
        later.add(noted)
    assert later.unstored() == b'# ["file:///new"]\nquorum none\n'
    assert later.foreign().of_tenants == {"file:///own"}
