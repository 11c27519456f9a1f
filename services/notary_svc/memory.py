"""Whether a database is the memory of a notary's keys, without any I/O.

What a notary is trusted for is to remember. Keys that meet a database which does not know them
(another volume, one that was dropped, a wrong URL, keys from a backup) would cosign a second
history of every log. So a database holds the verifier keys whose memory it is, from before the keys
are written: they are made together, and start together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from provledger.settings import ConfigError


@dataclass(frozen=True, slots=True)
class Memory:
    """What a database holds. vkeys: whose it is; cosigned: whether anything was cosigned."""

    vkeys: frozenset[str]
    cosigned: bool


def check_memory(memory: Memory, vkeys: Collection[str], *, accept_empty: bool) -> None:
    """Check that keys which were there before this start may use a database.

    vkeys: theirs; none if all were made in this start. accept_empty: on the word of whoever runs
    it that nothing was cosigned with them.

    Raises:
        ConfigError: it is not theirs.
    """
    # One that cosigned and knows no keys is from before they were remembered.
    from_before = memory.cosigned and not memory.vkeys
    if not vkeys or memory.vkeys.intersection(vkeys) or from_before:
        return
    if memory.vkeys:
        raise ConfigError(
            "the database is the memory of other keys than those in data_dir: two notaries do not "
            "share one; see that database_url and data_dir belong together"
        )
    if not accept_empty:
        raise ConfigError(
            "the keys in data_dir were there before, and the database knows nothing of them: what "
            "was cosigned with them may be forgotten, and a second history would be cosigned. See "
            "that it is the right database; or take the keys away, and new ones are made. Only if "
            "nothing was ever cosigned with them, start once with accept_empty_database"
        )
