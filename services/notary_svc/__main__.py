"""Run the notary: `python -m notary_svc`; `--vkeys` prints what others trust it by, and ends.

Needs the extra `gateway`. SIGTERM and SIGINT begin the drain, a second signal ends the wait. Exit
status: 0 after a drain, 1 after a fault, 2 for settings it cannot start with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import provledger.quiet_grpc  # noqa: F401 - before gRPC, which an exporter of telemetry may use
from notary_svc.config import Settings
from provledger import logs, process, settings, telemetry
from provledger.fips import launch
from provledger.settings import ConfigError


def main(argv: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="notary_svc", description="A cosigner for logs.")
    parser.add_argument("--config", type=Path, default=os.environ.get("PROVLEDGER_CONFIG"))
    parser.add_argument("--vkeys", action="store_true", help="print the verifier keys and exit")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    arguments = parser.parse_args(argv)
    try:
        _refuse_fips()
        config = settings.load(Settings, "notary", file=arguments.config)
        if arguments.vkeys:
            from notary_svc import opening

            vkeys = asyncio.run(opening.vkeys(config))
            text = json.dumps({"vkeys": vkeys}) if arguments.json else "\n".join(vkeys)
            sys.stdout.write(text + "\n")
            return 0
        try:
            from notary_svc.app import serve
        except ImportError as error:
            raise ConfigError(
                f"{error.name} is missing: install the extra, provledger[gateway]"
            ) from error
        human = {"auto": None, "human": True, "json": False}[config.log_format]
        logs.configure("notary", level=config.log_level, human=human)
        telemetry.configure("notary")

        async def run() -> None:
            stop, hurry = process.hear_signals()
            await serve(config, stop=stop, hurry=hurry)

        asyncio.run(run())
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"provledger notary: {error}\n")
        return 2
    except Exception as error:
        logs.get("notary_svc").error("notary.failed", exc_info=error)
        return 1
    finally:
        telemetry.shutdown()
    return 0


def _refuse_fips() -> None:
    """Raise ConfigError if FIPS mode was asked for: its keys are Ed25519 and ML-DSA, made by us."""
    if launch.requested():
        raise ConfigError(f"the notary has no FIPS mode; set {launch.FIPS_ENV}=0 for it")


if __name__ == "__main__":
    sys.exit(main())
