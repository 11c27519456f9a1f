"""What was acknowledged, kept in little memory, and held against what a ledger lists. Pure.

Of each receipt one bit, for each thousand of them the sum of their hashes; whole, with its name,
only a sample and the newest ones. So a client process that has sent a million keeps some hundred
kilobytes, and what several have kept is added up.

    block   seq 0 .. 1023          1024 .. 2047         ...
    mask    a bit for each seq     ...
    total   of receipt hashes, as numbers, modulo 2^256

A sum tells a receipt that is another one than was acknowledged by mishap. A service that lies could
make one that fits: that it does not is what receipts are verified for, of which there is a sample.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

BLOCK: Final = 1024
SAMPLE: Final = 32
"""Receipts of each ledger, of one process, that are kept whole; and as many of the newest."""
_MODULUS: Final = 1 << 256
_MOST_SHOWN: Final = 3


class Acknowledged(NamedTuple):
    """One receipt as a client was given it; the hash in hex."""

    name: str
    seq: int
    receipt_hash_hex: str


@dataclass(slots=True)
class Block:
    """Those of `BLOCK` seqs that were acknowledged, by bit, and the sum of their hashes."""

    mask: int = 0
    total: int = 0

    def add(self, mask: int, total: int) -> int:
        """Add some; those that were there already, by bit."""
        twice = self.mask & mask
        self.mask |= mask
        self.total = (self.total + total) % _MODULUS
        return twice


@dataclass(slots=True)
class Kept:
    """What was acknowledged of one ledger. `start_t_ns`: the earliest time of an entry.

    `twice`: seqs that were acknowledged for two drafts.
    """

    count: int = 0
    highest_seq: int = -1
    start_t_ns: int = 0
    blocks: dict[int, Block] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    sample: list[Acknowledged] = field(default_factory=list)
    newest: deque[Acknowledged] = field(default_factory=lambda: deque(maxlen=SAMPLE))

    def add(self, receipt: Acknowledged, t_ns: int, rng: random.Random) -> None:
        """Keep a receipt."""
        number, bit = divmod(receipt.seq, BLOCK)
        self._add_block(number, 1 << bit, int(receipt.receipt_hash_hex or "0", 16))
        self.count += 1
        self.highest_seq = max(self.highest_seq, receipt.seq)
        self.start_t_ns = min(self.start_t_ns or t_ns, t_ns)
        self.newest.append(receipt)
        # Each of them with the same chance (Vitter's algorithm R).
        if len(self.sample) < SAMPLE:
            self.sample.append(receipt)
        elif (place := rng.randrange(self.count)) < SAMPLE:
            self.sample[place] = receipt

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another process has kept, as `to_json` gives it."""
        for number, mask, total in other["blocks"]:
            self._add_block(number, int(mask, 16), int(total, 16))
        self.count += other["count"]
        self.highest_seq = max(self.highest_seq, other["highest_seq"])
        times = [t_ns for t_ns in (self.start_t_ns, other["start_t_ns"]) if t_ns]
        self.start_t_ns = min(times, default=0)
        self.twice += other["twice"]
        self.sample += [Acknowledged(*each) for each in other["sample"]]

    def to_json(self) -> dict[str, Any]:
        """For the parent."""
        return {
            "count": self.count,
            "highest_seq": self.highest_seq,
            "start_t_ns": self.start_t_ns,
            "blocks": [
                (number, f"{block.mask:x}", f"{block.total:x}")
                for number, block in self.blocks.items()
            ],
            "twice": self.twice,
            "sample": list(dict.fromkeys([*self.sample, *self.newest])),
        }

    def _add_block(self, number: int, mask: int, total: int) -> None:
        twice = self.blocks.setdefault(number, Block()).add(mask, total)
        while twice and len(self.twice) < _MOST_SHOWN:
            lowest = twice & -twice
            self.twice.append(number * BLOCK + lowest.bit_length() - 1)
            twice ^= lowest


class Recall:
    """Holds what a ledger lists, in order, against what was kept of it."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._found: dict[int, Block] = {}
        self._last_seq: int | None = None
        self._gaps: list[str] = []

    def see(self, seq: int, receipt_hash: bytes) -> None:
        """The next receipt that is listed, whoever sent it."""
        last, self._last_seq = self._last_seq, seq
        if last is not None and seq != last + 1 and len(self._gaps) < _MOST_SHOWN:
            self._gaps.append(f"seq {seq} is listed after seq {last}")
        number, bit = divmod(seq, BLOCK)
        block = self._kept.blocks.get(number)
        if block is not None and block.mask >> bit & 1:
            found = self._found.setdefault(number, Block())
            found.add(1 << bit, int.from_bytes(receipt_hash))

    def problems(self, *, cut_off: bool = False) -> Sequence[str]:
        """What is otherwise than it was acknowledged.

        cut_off: the list did not come to its end; of what would have come later nothing is said.
        """
        problems = [f"seq {seq} was acknowledged for two drafts" for seq in self._kept.twice]
        problems += self._gaps
        missing, first = 0, -1
        for number, block in sorted(self._kept.blocks.items()):
            found = self._found.get(number, Block())
            lacking = block.mask & ~found.mask
            if cut_off:
                lacking &= self._seen_of(number)
            if lacking:
                missing += lacking.bit_count()
                lowest = (lacking & -lacking).bit_length() - 1
                first = number * BLOCK + lowest if first < 0 else first
            elif block.mask == found.mask and block.total != found.total and not self._kept.twice:
                span = f"seq {number * BLOCK} to {(number + 1) * BLOCK - 1}"
                problems.append(f"of {span} some are others than were acknowledged")
        if missing:
            problems.append(f"{missing} of them are not there, the first is seq {first}")
        return problems

    def _seen_of(self, number: int) -> int:
        """The seqs of a block up to the last one that was listed, by bit."""
        last = -1 if self._last_seq is None else self._last_seq
        return (1 << min(BLOCK, max(0, last + 1 - number * BLOCK))) - 1
