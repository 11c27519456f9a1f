"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer options] [directories]`.

To merge a corpus, libFuzzer runs itself again: by a script whose path is in PROVLEDGER_FUZZ_AGAIN.
"""

from __future__ import annotations

import os
import sys

import atheris


def main() -> None:
    """Instrument, load, fuzz."""
    name, *options = sys.argv[1:]
    ours = ["provledger", "anchor_svc", "keys_svc", "ledger_svc", "witness_svc", "provledger_cli"]
    with atheris.instrument_imports(include=[*ours, "rfc8785"]):
        from tests.fuzz.targets import TARGETS
    again = os.environ.get("PROVLEDGER_FUZZ_AGAIN", sys.argv[0])
    atheris.Setup([again, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
