"""Check the Cloud KMS adapter against a real project: not part of the test suite, run by name.

    python -m tests.manual.check_gcp_kms gcp-kms:projects/<p>/locations/<l>/keyRings/<r>/\
cryptoKeys/<k>/cryptoKeyVersions/<n>

Credentials are found as in every Google client (`gcloud auth application-default login`). They need
the roles cloudkms.publicKeyViewer and cloudkms.signer on that key, and cloudkms.admin for --create.
Run it once with a version of EC_SIGN_ED25519 and once with EC_SIGN_P256_SHA256.
"""

from __future__ import annotations

from tests.manual.kms_checks import main

if __name__ == "__main__":
    main(__doc__, {"/cryptoKeyVersions/": "-not-there/cryptoKeyVersions/"})
