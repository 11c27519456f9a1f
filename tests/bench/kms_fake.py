"""The AWS stand-in as a process: takes a command a line, answers each with a line of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from provledger.jwk import jwk_from_public_key
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.support.token_bucket import TokenBucket


def main() -> None:
    """Serve until the input ends."""
    with FakeAWSKMS() as fake:
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            answer: dict[str, Any] = {}
            if command == "key":
                arn = fake.add_key("ECC_NIST_EDWARDS25519")
                jwk = jwk_from_public_key(fake.keys[arn].private.public_key())
                answer = {"url": fake.url, "arn": arn, "jwk": json.dumps(jwk)}
            elif command == "latency":
                fake.latency_s = int(argument) / 1000
            elif command == "limit":
                fake.limit = TokenBucket(rate_per_s=int(argument), burst=int(argument) / 10)
            elif command == "calls":
                answer = {"calls": fake.calls["Sign"], "signed": fake.outcomes["ok"]}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
