"""How a service's process deals with memory, as far as that is Python's and the C library's to say.

A flush of 500 receipts takes and gives back some megabytes, in pieces of which many are larger than
what glibc keeps by default. Given back to the system and asked for again, each page is a fault and
is filled with zeros anew: half of what the witness had the kernel do for batched appends.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

from provledger import logs

log = logs.get(__name__)

_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Objects, and collections of each younger generation, until the next one is collected."""

# mallopt(3): parameters as <malloc.h> numbers them, with values in bytes. A piece of more than the
# first is mapped by itself, at most 32 MiB; free memory at the end of more than the second goes
# back; and so much more than needed is asked for at a time.
_MALLOPT: Final = (
    (-3, 32 << 20),  # M_MMAP_THRESHOLD
    (-1, 64 << 20),  # M_TRIM_THRESHOLD
    (-2, 4 << 20),  # M_TOP_PAD
)


def settle() -> None:
    """For once a service is up: what it consists of is there to stay, what calls need comes and
    goes."""
    _spare_the_collector()
    _keep_what_is_free()


def _spare_the_collector() -> None:
    """Have Python look for cycles rarely, and never among what lives as long as the service.

    A batch of a thousand drafts makes and drops some ten thousand objects, all freed by their
    reference counts; a look at each seven hundred of them finds nothing and stops the event loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _keep_what_is_free() -> None:
    """Have glibc keep some of what is free; other C libraries see to it by themselves."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _MALLOPT:
        if not mallopt(ctypes.c_int(parameter), ctypes.c_int(value)):
            log.warning("memory.not_kept", parameter=parameter, value=value)
