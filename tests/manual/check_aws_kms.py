"""Check the AWS adapter against a real account: not part of the test suite, run by name.

    python -m tests.manual.check_aws_kms aws-kms:arn:aws:kms:eu-central-1:<account>:key/<id>

Credentials are found as in every AWS client. They need kms:DescribeKey, kms:GetPublicKey and
kms:Sign on that key, and kms:CreateKey for --create. Run it once with a key of spec
ECC_NIST_EDWARDS25519 and once with ECC_NIST_P256, and once with `?fips=1` behind the ARN.
"""

from __future__ import annotations

import re
import sys

from tests.manual.kms_checks import main

if __name__ == "__main__":
    ids = re.findall(r"key/([0-9a-f-]{36})", " ".join(sys.argv[1:]))
    main(__doc__, dict.fromkeys(ids, "00000000-0000-4000-8000-000000000000"))
