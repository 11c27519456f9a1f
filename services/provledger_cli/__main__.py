"""`python -m provledger_cli` is `provledger`."""

from __future__ import annotations

from provledger_cli.main import main

if __name__ == "__main__":
    main()
