"""The pairwise test of each key that a service opens, as FIPS mode sees it.

`provledger.kms.signing.self_test` signs and verifies with every key before it is used. In FIPS mode
a signature that does not verify there is more than a key that cannot be used: signing cannot be
trusted any more, so the error state is entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from provledger.fips import policy
from provledger.kms.errors import KMSIntegrityError


@contextmanager
def pairwise_test(uri: str) -> Iterator[None]:
    """Run the body, which signs and verifies with the key at `uri`.

    Raises what the body raises; if that is KMSIntegrityError, FIPS mode is in its error state.
    """
    try:
        yield
        if policy.pairwise_falsified():
            raise KMSIntegrityError(f"the key at {uri}: its pairwise test was made to fail")
    except KMSIntegrityError:
        policy.latch(f"pairwise test of the key at {uri}")
        raise
