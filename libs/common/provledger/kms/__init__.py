"""Private keys, behind one interface, wherever the operator keeps them.

`open_signer(uri, key_dir)` gives a `Signer`; the scheme of the URI chooses the adapter, whose
library is imported when it is first used (`kms.registry`): files, AWS KMS, Google Cloud KMS and
PKCS#11 tokens. Where the library is missing, its URIs are known and refused with the name of the
extra that brings it.

Services do not call `Signer.sign`: they use the typed operations in `kms.signing`, which build the
signed bytes themselves and verify each signature before it leaves. Which key is active is not
decided here (`provledger.keyring`).
"""

from __future__ import annotations

from provledger.kms.base import Capabilities, Provider, Signer
from provledger.kms.registry import check_uri, create_key, open_signer, provider_for

__all__ = [
    "Capabilities",
    "Provider",
    "Signer",
    "check_uri",
    "create_key",
    "open_signer",
    "provider_for",
]
