"""A service without RPCs whose key fails its pairwise test when a file appears.

`python -m tests.support.fips_service`, with PROVLEDGER_TEST_FAIL_FILE: for tests of what FIPS mode
does to a service that runs.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from provledger.fips.pairwise import pairwise_test
from provledger.kms.errors import KMSIntegrityError
from provledger.rpc.server import App, main
from provledger.rpc.settings import ServerSettings


async def build(settings: ServerSettings) -> App:
    """The app: nothing but the wait for the file."""
    path = Path(os.environ["PROVLEDGER_TEST_FAIL_FILE"])

    async def fail_later() -> None:
        while not path.exists():  # noqa: ASYNC110 - a file is what another process can make
            await asyncio.sleep(0.02)
        try:
            with pairwise_test("local:test.pem"):
                raise KMSIntegrityError("the signature does not verify")
        except KMSIntegrityError:
            pass  # as the key ring does, which goes on with another key

    return App(services=[], background=[fail_later])


if __name__ == "__main__":
    main("keys", ServerSettings, build)
