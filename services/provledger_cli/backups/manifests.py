"""The last member of a backup: what it is of, and what all the others must be.

Version 1 names every member::

    {"v": "1", "about": {...}, "files": [{"name": "...", "size": 0, "sha256": "<hex>"}, ...]}

Where that would be too long to be read at once (from some 180 million log entries on), version 2
has one digest instead, over a line of each member in the order of the archive::

    {"v": "2", "about": {...}, "files": {"count": 1, "sha256": "<hex>"}}
    <sha256 in hex> <size> <name>
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from provledger.errors import ProvledgerError
from provledger_cli.backups import contents

MAX_BYTES: Final = 256 << 20
MAX_LISTED: Final = 2_000_000
"""More do not fit a manifest of version 1 anyway."""

_HEX: Final = re.compile(r"[0-9a-f]{64}")


class ManifestError(ProvledgerError):
    """It cannot be read, or its archive holds something else."""


class NewerManifestError(ManifestError):
    """Its version is not known."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup. sha256: in hex."""

    name: str
    size: int
    sha256: str


class Listing:
    """The members of an archive, as they come."""

    def __init__(self) -> None:
        self.count = 0
        self.members: list[Member] = []
        """All of them, or none if they are more than `MAX_LISTED`."""
        self._hash = hashlib.sha256()

    def add(self, member: Member) -> None:
        """The next one."""
        self.count += 1
        self._hash.update(f"{member.sha256} {member.size} {member.name}\n".encode())
        if self.count <= MAX_LISTED:
            self.members.append(member)
        else:
            self.members.clear()

    def digest(self) -> str:
        """SHA-256 over their lines, in hex."""
        return self._hash.hexdigest()

    def manifest(self, about: Mapping[str, Any]) -> Manifest:
        """The manifest of what there is."""
        return Manifest(about, tuple(self.members), self.count, self.digest())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is: `about` says when, of what and by which version; see `backup`.

    members: none in version 2. count: of files. digest: see `Listing`.
    """

    about: Mapping[str, Any]
    members: tuple[Member, ...]
    count: int
    digest: str

    def encode(self) -> bytes:
        """Return it as JSON, in version 1 if that is short enough."""
        value: dict[str, Any] = {"v": "1", "about": dict(self.about)}
        if len(self.members) == self.count:
            value["files"] = [
                {"name": each.name, "size": each.size, "sha256": each.sha256}
                for each in self.members
            ]
            data = json.dumps(value, indent=1).encode() + b"\n"
            if len(data) <= MAX_BYTES:
                return data
        value |= {"v": "2", "files": {"count": self.count, "sha256": self.digest}}
        return json.dumps(value, indent=1).encode() + b"\n"

    def check(self, found: Listing) -> None:
        """Return if an archive holds what it should; raises ManifestError."""
        if (found.count, found.digest()) == (self.count, self.digest):
            return
        if len(self.members) != self.count or len(found.members) != found.count:
            raise ManifestError("its files are not those of the manifest")
        expected = {each.name: each for each in self.members}
        for each in found.members:
            if expected.pop(each.name, None) != each:
                raise ManifestError(f"{each.name} is not what the manifest says, or in it twice")
        if expected:
            raise ManifestError(f"{min(expected)} is missing")


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: it is none; NewerManifestError if it may be one all the same.
    """
    try:
        value: Any = json.loads(data, parse_constant=_refuse)
        version, about, files = value["v"], value["about"], value["files"]
        if isinstance(version, str) and version not in ("1", "2"):
            raise NewerManifestError("it was written by a newer version")
        contents.check_about(about)
        if version == "1":
            found = Listing()
            for each in files:
                found.add(_member(each))
            if len({each.name for each in found.members}) == found.count:
                return found.manifest(about)
        elif version == "2" and _is_count(files["count"]) and _HEX.fullmatch(files["sha256"]):
            return Manifest(about, (), files["count"], files["sha256"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError("its manifest cannot be read") from error
    raise ManifestError("its manifest cannot be read")


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the infinities, which JSON has not


def _member(value: Any) -> Member:
    name, size, digest = value["name"], value["size"], value["sha256"]
    if not isinstance(name, str) or not _is_count(size) or _HEX.fullmatch(digest) is None:
        raise ValueError("member")
    return Member(name, size, digest)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
