"""RFC 8785: the published documents, its Appendix B, and the published set of numbers.

The number set is a recipe (cyberphone/json-canonicalization, testdata/README.md): some chosen
doubles, two thousand neighbours of the smallest normal one, then doubles cut from a chain of
SHA-256. We write them all and compare the checksum of the lines with the published one.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from itertools import islice

import pytest

from provledger import _jcs_slow, jcs
from provledger.errors import InvalidJSONError
from tests.conformance.vectors import read


@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_published_documents(name: str) -> None:
    data = read(f"jcs/input/{name}.json")
    wanted = read(f"jcs/output/{name}.json")
    assert bytes.fromhex(read(f"jcs/outhex/{name}.txt").decode()) == wanted
    # Some hold numbers that only `encode` may write; see `values`.
    try:
        value = jcs.parse(data)
    except InvalidJSONError:
        value = json.loads(data)
    assert jcs.encode(value) == wanted
    assert _jcs_slow.encode(value, jcs.MAX_ENCODE_DEPTH) == wanted


# RFC 8785 Appendix B: the bits of a double, and its text.
APPENDIX_B = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""


@pytest.mark.parametrize("line", APPENDIX_B.split("\n")[1:-1])
def test_appendix_b(line: str) -> None:
    bits, text = line.split()
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert jcs.encode(number) == text.encode()
    assert jcs.encode({"n": [number]}) == f'{{"n":[{text}]}}'.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_appendix_b_has_no_text_for_nan_and_infinity(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(InvalidJSONError):
        jcs.encode([number])


# A third of powers of ten, as the recipe rounds them: digits after "3.", from 1e21 down.
_THIRDS = """
3333333333333335 333333333333333 3333333333333336 333333333333334 333333333333334
333333333333334 3333333333333340 333333333333334 3333333333333344 333333333333334
3333333333333344 333333333333334 333333333333334 333333333333334 3333333333333336
3333333333333335 333333333333333 3333333333333336 333333333333333 333333333333333
3333333333333336 3333333333333335 333333333333333 333333333333333 3333333333333335
333333333333333 3333333333333335 3333333333333333 3333333333333335 3333333333333334
3333333333333334 333333333333333 3333333333333335 333333333333333 3333333333333334
3333333333333334 3333333333333332 333333333333333 3333333333333335 3333333333333333
3333333333333334 333333333333333 3333333333333333 333333333333333 3333333333333333
3333333333333334 3333333333333335 333333333333333 333333333333333 3333333333333338
"""


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack(">d", number), "big")


def _number_set() -> Iterator[int]:
    sign = 1 << 63
    yield from (0, sign, 1, sign | 1)
    thirds = [_bits(float(f"3.{digits}e{21 - i}")) for i, digits in enumerate(_THIRDS.split())]
    yield from (sign | bits for bits in thirds)
    yield from thirds
    fives = ["10", *(f"5e{-i}" for i in range(10)), *(f"5.{'0' * i}6e-6" for i in range(1, 15))]
    yield from (_bits(float(text)) for text in fives)
    yield from map(_bits, (5e-6, 1.0, -1.0))
    one = _bits(1.0)
    below = (sign | 6, sign | 5, 6, 5, 4, 2, sign | 1, sign | 1, 1, 1)
    yield from ((step & sign) | one - (step & ~sign) for step in below)
    yield from (_bits(0.3) + step for step in (-1, 0, 1))
    normal = 0x0010000000000000
    yield from (normal, normal - 3, normal - 1)
    # The rest of the chosen ones are those of Appendix B.
    yield from (int(line.split()[0], 16) for line in APPENDIX_B.split("\n")[5:-1])
    yield from range(normal, normal + 2000)
    block = bytes(32)
    while True:
        block = hashlib.sha256(block).digest()
        for (number,) in struct.iter_unpack("<d", block):
            if number != 0 and math.isfinite(number):
                yield _bits(number)


def test_published_number_set() -> None:
    published = {
        1_000: "be18b62b6f69cdab33a7e0dae0d9cfa869fda80ddc712221570f9f40a5878687",
        10_000: "b9f7a8e75ef22a835685a52ccba7f7d6bdc99e34b010992cbc5864cd12be6892",
        100_000: "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7",
    }
    lines = hashlib.sha256()
    for count, bits in enumerate(islice(_number_set(), 10_000), 1):
        (number,) = struct.unpack(">d", bits.to_bytes(8, "big"))
        lines.update(b"%x,%b\n" % (bits, jcs.encode(number)))
        if count in published:
            assert lines.hexdigest() == published[count]
