"""Makes `stamps/`: what a timestamp authority of its own answered, `openssl ts`.

    ca.pem, tsa.pem     its root and its certificate, valid for a century; the keys are thrown away
    message.tsr         its answer for `MESSAGE`
    evidence.json       evidence over the checkpoint of `trusted.CHAIN`, with another answer

They are checked in, since a token is another one each time and not everybody has openssl. Where
that checkpoint becomes another one, make them anew: `python -m tests.fuzz.stamping`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from provledger import timestamp
from tests.support.chain import ORIGIN, sample_chain

STAMPS: Final = Path(__file__).parent / "stamps"
MESSAGE: Final = b"message"


def main() -> None:
    """Make them all."""
    from tests.support.peers import OpenSSLAuthority

    STAMPS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        openssl = OpenSSLAuthority(Path(scratch) / "tsa", days=36500)
        shutil.copy(openssl.cert, STAMPS)
        shutil.copy(openssl.chain, STAMPS)
        authority = timestamp.Authority.from_pem(
            openssl.cert.read_bytes(), openssl.chain.read_bytes()
        )
        request = timestamp.build_request(MESSAGE)
        (STAMPS / "message.tsr").write_bytes(openssl.answer("", request.der)[2])
        signed = timestamp.imprint_message(sample_chain().checkpoint(), ORIGIN)
        request = timestamp.build_request(signed)
        answer = openssl.answer("", request.der)[2]
        evidence = timestamp.encode_evidence(request, answer, authority)
        (STAMPS / "evidence.json").write_bytes(evidence)


if __name__ == "__main__":
    main()
