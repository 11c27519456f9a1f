"""What FIPS mode is on this machine, as one JSON document: `provledger fips status` runs this.

`python -m provledger.fips.launch provledger.fips.report`: it enters FIPS mode as a service does, so
what it says was asserted in a process of its own a moment ago, not read from configuration.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from provledger.fips import boot, policy

VALIDATION: Final = (
    "A FIPS-capable provider is loaded; this is not a validation. Whether the module named here "
    "is validated (CMVP, csrc.nist.gov) depends on who built it and for which platform; Debian's "
    "build is not, to our knowledge. Provledger itself has not been evaluated."
)

INSIDE: Final = (
    "SHA-256 of statements, entries, fields and logs; SHAKE256 of field salts (Python's hashlib)",
    "ECDSA P-256 and P-384 signing and verifying with local keys (package cryptography)",
    "Ed25519 signing and verifying of checkpoints, if the provider offers it",
    "making of local keys (openssl genpkey), decrypting of key files (PBKDF2, AES-256-CBC)",
    "TLS and SCRAM towards PostgreSQL, as far as psycopg's OpenSSL does them",
    "TLS of Python's ssl module, such as boto3's towards AWS KMS",
)
"""What is done by the provider."""

OUTSIDE: Final = (
    "TLS between services, to clients and to Google Cloud KMS: gRPC brings BoringSSL",
    "Python's own hashlib.md5 and hashlib.blake2b: they still work, our code does not use them",
    "the blake3 wheel: refused by our allow-list",
    "random numbers for salts, secrets and ids: the kernel's (os.urandom)",
    "arithmetic around EC keys in libcrypto proper, such as loading and checking public keys",
    "SQLite, zlib, Python: no cryptography that a receipt depends on",
    "keys in a KMS or PKCS#11 token: inside that module, under that module's own certificate",
    "digests that a caller gives ready-made: which are allowed is decided by our allow-list",
)
"""What is not."""


def document() -> dict[str, Any]:
    """The report of this process, which must be in FIPS mode."""
    booted = boot.report()
    assert booted is not None  # noqa: S101 - `launch` runs us after `boot`, or not at all
    versions = sorted({item.provider_version for item in booted.evidence if item.provider_version})
    names = sorted({item.provider_name for item in booted.evidence if item.provider_name})
    return {
        "active": policy.active(),
        "module": {
            "name": ", ".join(names) or "unknown",
            "version": ", ".join(versions) or "unknown",
        },
        "libcryptos": [
            {
                "user": item.user,
                "library": item.library,
                "copy": item.copy,
                "provider_version": item.provider_version or None,
                "self_test_repeated": item.self_test,
                "md5": "refused",
            }
            for item in booted.evidence
        ],
        "tests": [{"name": item.name, "library": item.library} for item in booted.tests],
        "ed25519_approved": booted.ed25519_approved,
        "suites": sorted(policy.SUITES),
        "algorithms": {
            purpose: policy.algorithm_for(purpose) for purpose in ("witness", "checkpoint", "head")
        },
        "inside": list(INSIDE),
        "outside": list(OUTSIDE),
        "validation": VALIDATION,
    }


def main() -> None:
    """Entry point."""
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
