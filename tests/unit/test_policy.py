"""Trust policies: c2sp.org/tlog-policy, and our lines in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from notary_svc.signing import Cosigner
from provledger import note
from provledger.errors import NoteError, PolicyError
from provledger.policy import parse_policy
from tests.support.notary import NOW_S, TinyLog

LOG = TinyLog()
A = "witness.example.org+b8a2cf20+BFLN3yikSfFkVAJtrnh/CiY3Zozkoy7clp+P7XB28qUN"
B = "mirror.example.org+3fb148ef+BAAjjch9GyYz0sJsJx7ALhbdAtz2ov0unbzSl1vMp94O"
C = "witness2.example.org+2e55b896+BIZ7fpceQWd60IfqQeS9IAnmNOCZjMDne8lZuguz/bi9"

FULL = f"""\
# who reads this trusts two of three, and the locked copy
log {LOG.vkey} https://log.test/one
witness a {A} https://a.test
witness\tb  {B}
witness c {C}
sink locked s3://bucket/p?mode=COMPLIANCE

  group people 2 a b c
group both all people locked
quorum both
within 10m
mode fail-closed
"""


def test_policy_with_everything() -> None:
    policy = parse_policy(FULL.encode())
    assert policy.log_keys(LOG.origin) == [LOG.key]
    assert policy.log_keys("other") == []
    assert policy.cosigners["a"].url == "https://a.test"
    assert policy.required() == {"a", "b", "c", "locked"}
    assert (policy.within_s, policy.fail_closed) == (600, True)


@pytest.mark.parametrize(
    ("members", "met"),
    [
        ("", False),
        ("a b c", False),
        ("a locked", False),
        ("a b locked", True),
        ("a b c locked", True),
        ("b c locked stranger", True),
    ],
)
def test_quorum_counts_members(members: str, met: bool) -> None:
    assert parse_policy(FULL.encode()).met_by(members.split()) is met


def test_groups_may_stand_in_each_other_as_deep_as_lines_allow() -> None:
    """Whoever may set a policy must not end in an error of ours."""
    nested = "".join(f"group g{i} 1 g{i - 1}\n" for i in range(1, 1000))
    text = f"witness a {A}\nwitness b {B}\ngroup g0 all a b\n{nested}quorum g999\n"
    policy = parse_policy(text.encode())
    assert policy.required() == {"a", "b"}
    assert policy.met_by(["a", "b"])
    for too_few in (["a"], ["g0"], ["g999"], []):
        assert not policy.met_by(too_few)


def test_quorum_none_is_always_met() -> None:
    policy = parse_policy(b"quorum none\n")
    assert policy.met_by([])
    assert policy.required() == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"witness a {A}",
        "quorum none\nquorum none",
        "quorum a",
        "quorum nobody",
        f"quorum a\nwitness a {A}",
        f"witness a {A}\nwitness a {B}\nquorum none",
        f"witness a {A}\nwitness b {A}\nquorum none",
        f"witness none {A}\nquorum none",
        f"witness a {LOG.vkey}\nquorum none",
        f"witness a {A}\ngroup g 2 a\nquorum g",
        f"witness a {A}\ngroup g 0 a\nquorum g",
        f"witness a {A}\ngroup g many a\nquorum g",
        f"witness a {A}\ngroup g all\nquorum g",
        f"witness a {A}\ngroup g all a\ngroup h all a\nquorum g",
        f"witness a {A}\ngroup g 1 a a\nquorum g",
        "group g all g\nquorum g",
        "witness a hello\nquorum none",
        "log hello\nquorum none",
        "sink a s3://b\nsink b s3://b\nquorum none",
        "sink a\nquorum none",
        "hello\nquorum none",
        "quorum none\nwithin 10",
        "quorum none\nwithin 10d",
        "quorum none\nmode sometimes",
        "quorum none\nwithin 1m\nmode fail-closed",
        "sink a s3://b\nquorum a\nmode fail-closed",
        "quorum none\r\n",
        "quorum none\x00",
    ],
)
def test_bad_policies_are_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text.encode())


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(PolicyError):
        parse_policy(b"quorum none # \xff")


def test_cosignatures_are_verified(tmp_path: Path) -> None:
    cosigner = Cosigner.open("notary.test", tmp_path)
    lines = "".join(f"witness w{i} {vkey}\n" for i, vkey in enumerate(cosigner.vkeys))
    policy = parse_policy(f"{lines}quorum w0\n".encode())
    signed = LOG.checkpoint(7)
    text = note.parse(signed).text
    assert policy.cosigned_by(signed) == {}
    cosigned = signed + b"".join(cosigner.cosign(text, NOW_S))
    assert policy.cosigned_by(cosigned) == {"w0": NOW_S, "w1": NOW_S}
    # Without a time it does not say that the tree was the largest.
    timeless = signed + b"".join(cosigner.cosign(text, 0))
    assert policy.cosigned_by(timeless) == {}
    other = LOG.checkpoint(8) + b"".join(cosigner.cosign(text, NOW_S))
    with pytest.raises(NoteError):
        policy.cosigned_by(other)
