"""What a running service does about FIPS mode: say in its log what it is, and end if a test fails.

`provledger.rpc.server` calls `announce` when it starts and runs `until_failed` beside the building
of the service and its background work. When that raises, health says NOT_SERVING, the server
drains, and the process exits with status 1.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from provledger import logs
from provledger.fips import policy
from provledger.fips.errors import FIPSAssertionError, FIPSSelfTestError

log = logs.get(__name__)


def announce() -> None:
    """Log the module and its version; nothing outside FIPS mode.

    Raises FIPSAssertionError for cryptography that came with the service's imports, unasserted.
    """
    if not policy.active():
        return
    from provledger.fips import boot

    booted = boot.report()
    if booted is None:
        raise FIPSAssertionError("FIPS mode is active, but was not booted")
    boot.assert_no_strangers(booted.loaded)
    versions = {item.provider_version for item in booted.evidence if item.provider_version}
    log.info(
        "fips.ready",
        provider_version=", ".join(sorted(versions)) or "unknown",
        libcryptos=[f"{item.user}: {item.library}" for item in booted.evidence],
        tests=len(booted.tests),
        ed25519_approved=booted.ed25519_approved,
        note="FIPS-capable provider loaded; this is not a validation",
    )


async def until_failed() -> None:
    """Wait for the error state and raise FIPSSelfTestError; outside FIPS mode wait for ever."""
    loop, failed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        # From whichever thread found it; the loop may be closing.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(failed.set)

    policy.on_error(wake)
    await failed.wait()
    log.error("fips.error_state", test=policy.error())
    raise FIPSSelfTestError(policy.error(), "failed while the service ran")
