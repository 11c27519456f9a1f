"""New local keys for FIPS mode, made inside the provider.

The package `cryptography` generates elliptic curve keys with code of libcrypto that does not belong
to the provider (seen: under `fips=yes` it makes secp256k1 keys as well, which the provider does not
know). So the openssl command makes them, with the provider named and demanded; the provider tests
each new pair (SP 800-56A rev. 3 §5.6.2.1.4) before it gives it away. The key comes through a pipe
and touches no disk here.
"""

from __future__ import annotations

import os
import subprocess
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from provledger.fips import policy
from provledger.fips.errors import FIPSAssertionError
from provledger.jwk import Algorithm

_TIMEOUT_S: Final = 30.0
_PROVIDERS: Final = ("-provider", "fips", "-provider", "base", "-propquery", "fips=yes")
_EC: Final = ("-algorithm", "EC", "-pkeyopt", "ec_param_enc:named_curve", "-pkeyopt")
_OPTIONS: Final = {
    Algorithm.ECDSA_P256: (*_EC, "ec_paramgen_curve:P-256"),
    Algorithm.ECDSA_P384: (*_EC, "ec_paramgen_curve:P-384"),
    Algorithm.ED25519: ("-algorithm", "ED25519"),
}


ALGORITHMS: Final = frozenset(_OPTIONS)
"""What FIPS mode makes keys of."""


def generate(algorithm: Algorithm) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    """Return a new private key; only in FIPS mode.

    Raises:
        FIPSAssertionError: the provider did not make one.
    """
    if not policy.active() or not os.path.isfile(os.environ.get("OPENSSL_CONF", "")):
        raise FIPSAssertionError("keys are made this way in FIPS mode only")
    command = ["openssl", "genpkey", "-outform", "DER", *_PROVIDERS, *_OPTIONS[algorithm]]
    try:
        # Our environment points at the spare slot (`provledger.fips.boot`).
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=True
        )
        key = load_der_private_key(done.stdout, None)
    except (OSError, subprocess.SubprocessError, ValueError):
        # Without what it wrote: that may be the key.
        raise FIPSAssertionError(f"openssl did not make a key of type {algorithm}") from None
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise FIPSAssertionError("openssl made a key of another type")
    return key
