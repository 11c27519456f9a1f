"""The register of targets: any bytes in, and only errors of ours may come out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from provledger.errors import ProvledgerError

MAX_INPUT_BYTES: Final = 64 * 1024

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
DECODERS: dict[str, Target] = {}
"""The same without the net: they raise errors of ours too."""


def target(function: Target) -> Target:
    """Register a decoder under its name; errors of ours are what it is expected to raise."""

    @functools.wraps(function)
    def run(data: bytes) -> None:
        try:
            function(data)
        except ProvledgerError as error:
            # What an error says must be something that can be shown and logged.
            str(error).encode()

    DECODERS[function.__name__] = function
    TARGETS[function.__name__] = run
    return run
