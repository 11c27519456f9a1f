"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer options] [directories]`.

To merge a corpus, libFuzzer runs itself again: by a script whose path is in PROVLEDGER_FUZZ_AGAIN.
"""

from __future__ import annotations

import os
import sys

import atheris

from tests.fuzz.instrumented import INSTRUMENTED


def main() -> None:
    """Instrument, load, fuzz."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    again = os.environ.get("PROVLEDGER_FUZZ_AGAIN", sys.argv[0])
    atheris.Setup([again, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
