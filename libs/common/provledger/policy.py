"""Whom a checkpoint must convince: trust policies of c2sp.org/tlog-policy, with our sinks.

::

    log <vkey> [url]                       a log; the key's name is its origin
    witness <name> <vkey> [url]            a cosigner
    group <name> all|any|<k> <member>...   members are cosigners, sinks and groups defined before
    quorum <name>|none                     exactly once: what must hold

    sink <name> <uri>                      ours: a member that is met by a sink's evidence
    within <n>s|m|h                        ours: how long after publication it may take
    mode fail-open|fail-closed             ours: what happens after that; fail-open if not said

A policy without the last three lines is one of c2sp.org/tlog-policy, and all of its readers take
it. With them, other readers refuse it as a whole, which is better than reading it by half.

Pure: what sinks returned is checked elsewhere, and which members that meets is given to
`Policy.met_by`. `Policy.cosigned_by` checks cosignatures.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from provledger import note
from provledger.errors import NoteError, PolicyError

MAX_POLICY_BYTES = 256 * 1024
"""Longest policy we read; a vkey of type 0x06 alone is 1.8 kB."""

MAX_LINES = 1024

_ALLOWED = re.compile(rb"[\x09\x0a\x20-\x7e\x80-\xff]*")
_NUMBER = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smh])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_BLANKS = re.compile(r"[ \t]+")
NONE = "none"


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log's key, whose name is the origin, and where the log is read."""

    key: note.VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A third party that checks consistency and cosigns; `url` is where it takes checkpoints."""

    name: str
    key: note.VerifierKey
    vkey: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Met once `threshold` of its members are."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it was written. `quorum` is a member's name, or None if nothing is asked.

    within_s: seconds from publication until it must be met, None for no limit. groups: each after
    those that are its members. text: as read.
    """

    logs: tuple[LogKey, ...] = ()
    cosigners: Mapping[str, Cosigner] = field(default_factory=dict)
    sinks: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str | None = None
    within_s: int | None = None
    fail_closed: bool = False
    text: bytes = field(default=b"", compare=False, repr=False)

    def log_keys(self, origin: str) -> list[note.VerifierKey]:
        """The trusted keys of one log; empty for one that the policy does not name."""
        return [log.key for log in self.logs if log.key.name == origin]

    def met_by(self, members: Collection[str]) -> bool:
        """Whether the quorum is met once these cosigners and sinks, by name, hold a checkpoint."""
        if self.quorum is None:
            return True
        met = set(members) - self.groups.keys()
        # Not by recursion: groups may stand in each other as deep as a policy has lines.
        for group in self.groups.values():
            if len(met.intersection(group.members)) >= group.threshold:
                met.add(group.name)
        return self.quorum in met

    def required(self) -> frozenset[str]:
        """Names of the cosigners and sinks below the quorum: those that can matter."""
        found: set[str] = set()
        waiting = [] if self.quorum is None else [self.quorum]
        while waiting:
            name = waiting.pop()
            group = self.groups.get(name)
            if group is None:
                found.add(name)
            else:
                waiting += group.members
        return frozenset(found)

    def cosigned_by(self, signed: bytes) -> dict[str, int]:
        """Cosigners whose signature over a note verifies: name to Unix seconds it was made at.

        A cosignature of time 0 is none here: it does not say that the tree was the largest then
        (c2sp.org/tlog-cosignature).

        Raises:
            NoteError: it cannot be read, or a line under a known key does not verify.
        """
        parsed = note.parse(signed)
        known = {(item.key.name, item.key.note_key_id) for item in self.cosigners.values()}
        if not any((line.name, line.note_key_id) in known for line in parsed.signatures):
            return {}
        opened = note.open(signed, [item.key for item in self.cosigners.values()])
        times = {
            item.key: item.timestamp_unix_s or 0
            for item in opened.signatures
            if item.timestamp_unix_s != 0
        }
        return {name: times[item.key] for name, item in self.cosigners.items() if item.key in times}


def parse_policy(data: bytes) -> Policy:
    """Read a policy.

    Raises:
        PolicyError: naming the line, counted from 1, and what is wrong with it.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(0, f"longer than {MAX_POLICY_BYTES} bytes")
    if not _ALLOWED.fullmatch(data):
        raise PolicyError(0, "holds control characters")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise PolicyError(0, "is not UTF-8") from None
    if len(lines) > MAX_LINES:
        raise PolicyError(0, f"more than {MAX_LINES} lines")
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        words = [word for word in _BLANKS.split(line) if word]
        if words and not words[0].startswith("#"):
            reader.line = number
            reader.read(words)
    return reader.done(data)


class _Reader:
    """What was read so far. Definitions precede their use, as the specification asks."""

    def __init__(self) -> None:
        self.line = 0
        self._logs: list[LogKey] = []
        self._cosigners: dict[str, Cosigner] = {}
        self._sinks: dict[str, str] = {}
        self._groups: dict[str, Group] = {}
        self._keys: set[bytes] = set()
        self._grouped: set[str] = set()
        self._once: dict[str, str] = {}

    def read(self, words: list[str]) -> None:
        keyword, rest = words[0], words[1:]
        if keyword == "log" and len(rest) in (1, 2):
            self._logs.append(LogKey(self._key(rest[0]), *rest[1:]))
        elif keyword == "witness" and len(rest) in (2, 3):
            self._name(rest[0])
            key = self._key(rest[1])
            if not key.is_cosigner:
                self._fail("a witness's key is of type 0x04 or 0x06")
            self._cosigners[rest[0]] = Cosigner(rest[0], key, *rest[1:])
        elif keyword == "sink" and len(rest) == 2:
            self._name(rest[0])
            if rest[1] in self._sinks.values():
                self._fail("this sink has a name already")
            self._sinks[rest[0]] = rest[1]
        elif keyword == "group" and len(rest) >= 3:
            self._group(rest[0], rest[1], tuple(rest[2:]))
        elif keyword in ("quorum", "within", "mode") and len(rest) == 1:
            if keyword in self._once:
                self._fail(f"a second {keyword} line")
            self._once[keyword] = self._value(keyword, rest[0])
        else:
            self._fail(f"not a line of a policy: {keyword!r} with {len(rest)} words")

    def done(self, text: bytes) -> Policy:
        if "quorum" not in self._once:
            raise PolicyError(0, "has no quorum line")
        quorum = self._once["quorum"]
        within = _DURATION.fullmatch(self._once.get("within", ""))
        if self._once.get("mode") == "fail-closed" and (within is None or quorum == NONE):
            raise PolicyError(0, "fail-closed needs a quorum and a within line")
        return Policy(
            logs=tuple(self._logs),
            cosigners=self._cosigners,
            sinks=self._sinks,
            groups=self._groups,
            quorum=None if quorum == NONE else quorum,
            within_s=None if within is None else int(within[1]) * _SECONDS[within[2]],
            fail_closed=self._once.get("mode") == "fail-closed",
            text=text,
        )

    def _group(self, name: str, how: str, members: tuple[str, ...]) -> None:
        self._name(name)
        for member in members:
            self._require(member)
            if member in self._grouped:
                self._fail(f"{member!r} is in a group already")
            self._grouped.add(member)
        threshold = {"all": len(members), "any": 1}.get(how, 0)
        if not threshold:
            if not _NUMBER.fullmatch(how) or int(how) > len(members):
                self._fail("a group asks for all, any, or a number of its members")
            threshold = int(how)
        self._groups[name] = Group(name, threshold, members)

    def _value(self, keyword: str, value: str) -> str:
        if keyword == "quorum" and value != NONE:
            self._require(value)
        if keyword == "within" and not _DURATION.fullmatch(value):
            self._fail("a duration looks like 90s, 10m or 24h")
        if keyword == "mode" and value not in ("fail-open", "fail-closed"):
            self._fail("mode is fail-open or fail-closed")
        return value

    def _key(self, vkey: str) -> note.VerifierKey:
        try:
            key = note.parse_vkey(vkey)
        except NoteError as error:
            raise PolicyError(self.line, str(error)) from error
        # SPEC: one public key under two names or ids would count twice.
        if key.public_key in self._keys:
            self._fail("this public key is there already")
        self._keys.add(key.public_key)
        return key

    def _name(self, name: str) -> None:
        if name == NONE or self._defined(name):
            self._fail(f"{name!r} is defined already" if name != NONE else "no name: 'none'")

    def _require(self, name: str) -> None:
        if not self._defined(name):
            self._fail(f"{name!r} is not defined above")

    def _defined(self, name: str) -> bool:
        return name in self._cosigners or name in self._sinks or name in self._groups

    def _fail(self, message: str) -> None:
        raise PolicyError(self.line, message)
