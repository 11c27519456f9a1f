"""The line format: every member arrives, what is wrong is named, nothing is dropped in silence."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import os
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

import orjson
import pytest

from provledger.api.common.v1 import common_pb2
from provledger.errors import InputError, InvalidJSONError
from provledger_cli.failures import CommandError
from provledger_cli.sources import LineSource
from provledger_cli.transfer.lines import MemberError, draft_from_line, request_ids

LINE = {
    "action": "UPDATE",
    "resource_type": "Version",
    "resource_id": "redis/8.8.2",
    "actor_id": "bot",
    "occurred_at": "2024-04-08T18:43:54+00:00",
    "upstream_event": "git:221b",
    "previous_state": {"date": None},
    "new_state": {"date": "2024-04-08"},
}


def line(**changes: object) -> bytes:
    return orjson.dumps({**LINE, **changes})


def test_a_line_becomes_a_draft_with_all_its_members() -> None:
    draft = draft_from_line(line(), "r-1")
    assert draft.request_id == "r-1"
    assert draft.actor.id == "bot"
    assert draft.occurred_at == "2024-04-08T18:43:54+00:00"
    assert list(draft.origin.upstream_events) == ["git:221b"]
    assert draft.mutation == common_pb2.Mutation(
        action=common_pb2.ACTION_UPDATE,
        resource_type="Version",
        resource_id="redis/8.8.2",
        previous_state=b'{"date":null}',
        new_state=b'{"date":"2024-04-08"}',
    )


def test_optional_members_arrive() -> None:
    draft = draft_from_line(
        line(
            request_id="given",
            diff=[{"op": "replace", "path": "/date", "value": 1}],
            origin={"service": "billing", "trace_id": "ab" * 16, "upstream_events": ["e1"]},
            op_id="op-2",
            op_parent_id="op-1",
        ),
        "not used",
    )
    assert draft.request_id == "given"
    assert orjson.loads(draft.mutation.diff)[0]["op"] == "replace"
    assert (draft.origin.service, draft.origin.trace_id) == ("billing", "ab" * 16)
    assert list(draft.origin.upstream_events) == ["git:221b", "e1"]
    assert (draft.op_id, draft.op_parent_id) == ("op-2", "op-1")


def test_an_origin_may_be_the_name_of_a_service() -> None:
    assert draft_from_line(line(origin="billing"), "r").origin.service == "billing"


def test_null_states_are_absent_states() -> None:
    draft = draft_from_line(line(action="CREATE", previous_state=None), "r")
    assert draft.mutation.previous_state == b""


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"resourceType": "x"}, "resourceType", "INVALID_FIELD"),
        ({"action": None}, "action", "REQUIRED"),
        ({"action": "MERGE"}, "action", "ACTION_INVALID"),
        ({"action": 1}, "action", "ACTION_INVALID"),
        ({"actor_id": 7}, "actor_id", "INVALID_FIELD"),
        ({"actor_id": None}, "actor_id", "REQUIRED"),
        ({"resource_id": None}, "resource_id", "REQUIRED"),
        ({"op_id": []}, "op_id", "INVALID_FIELD"),
        ({"origin": 1}, "origin", "INVALID_FIELD"),
        ({"origin": {"name": "x"}}, "origin.name", "INVALID_FIELD"),
        ({"origin": {"service": 1}}, "origin.service", "INVALID_FIELD"),
        ({"origin": {"upstream_events": "e"}}, "origin.upstream_events", "INVALID_FIELD"),
    ],
)
def test_a_wrong_member_is_named(changes: dict, field: str, reason: str) -> None:
    with pytest.raises(MemberError) as caught:
        draft_from_line(line(**changes), "r")
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_empty_text_is_for_the_service_to_refuse() -> None:
    assert draft_from_line(line(actor_id=""), "r").actor.id == ""


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b"{", None),
        (b"[]", ""),
        (b'{"action":"CREATE","action":"DELETE"}', "/action"),
        (b'{"new_state":{"a":NaN}}', None),
        (b'{"new_state":{"a":9007199254740993}}', "/new_state/a"),
        (b'{"new_state":"\\ud800"}', "/new_state"),
        (b"\xff", None),
        (b'{"new_state":' + b"[" * 80 + b"]" * 80 + b"}", None),
    ],
)
def test_what_is_no_strict_json_is_refused(text: bytes, pointer: str | None) -> None:
    with pytest.raises(InvalidJSONError) as caught:
        draft_from_line(text, "r")
    if pointer is not None:
        assert caught.value.pointer == pointer


def test_every_shipped_mutation_is_a_good_line() -> None:
    path = resources.files("provledger_cli") / "data" / "demo-mutations.ndjson"
    lines = path.read_bytes().splitlines()
    assert len(lines) == 500
    for text in lines:
        draft = draft_from_line(text, "r")
        assert draft.mutation.resource_id


def test_request_ids_tell_lines_and_files_apart_and_need_the_key() -> None:
    ids = request_ids(b"k" * 32, "a.ndjson")
    assert ids(1) == request_ids(b"k" * 32, "a.ndjson")(1)
    others = {
        ids(2),
        request_ids(b"k" * 32, "b.ndjson")(1),
        request_ids(b"l" * 32, "a.ndjson")(1),
    }
    assert ids(1) not in others
    assert len(others) == 3


def test_a_request_id_is_the_hmac_of_name_and_line_number() -> None:
    message = b"provledger/import/v1\n" + (8).to_bytes(4, "big") + b"a.ndjson"
    message += (12).to_bytes(8, "big")
    expected = hmac.new(b"k" * 32, message, hashlib.sha256).hexdigest()[:32]
    assert request_ids(b"k" * 32, "a.ndjson")(12) == expected


def test_files_are_read_the_same_plain_and_compressed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.ndjson", tmp_path / "a.ndjson.gz"
    data = b'{"a":1}\n\n{"b":2}'
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    for path in (plain, packed):
        with LineSource(path, max_line_bytes=100) as source:
            assert source.name == "a.ndjson"
            assert list(source.lines()) == [b'{"a":1}\n', b"\n", b'{"b":2}']
            assert source.position_bytes == path.stat().st_size == source.size_bytes


def test_compression_is_told_by_the_bytes_not_by_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(gzip.compress(b"x\n"))
    with LineSource(path, max_line_bytes=100) as source:
        assert list(source.lines()) == [b"x\n"]


def test_a_line_that_is_too_long_is_cut_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"a\n" + b"x" * 1_000_000 + b"\nb\n" + b"y" * 50)
    with LineSource(path, max_line_bytes=10) as source:
        assert list(source.lines()) == [b"a\n", b"x" * 11, b"b\n", b"y" * 11]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_compressed_file_says_so(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 1000))
    if damage == "cut":
        del packed[-20:]
    else:
        packed[-6] ^= 1
    path = tmp_path / "a.gz"
    path.write_bytes(packed)
    with (
        LineSource(path, max_line_bytes=10_000) as source,
        pytest.raises(CommandError, match="damaged"),
    ):
        list(source.lines())


def read_up_to_damage(path: Path) -> list[bytes]:
    """The lines that come before a compressed file turns out to be damaged."""
    lines: list[bytes] = []
    with (
        LineSource(path, max_line_bytes=1_000) as source,
        pytest.raises(CommandError, match="damaged"),
    ):
        lines.extend(source.lines())
    return lines


@pytest.mark.parametrize("members", [1, 2])
def test_what_is_before_the_damage_is_read_to_the_last_line(tmp_path: Path, members: int) -> None:
    """Else damage close behind a line hides what that line shows."""
    written = [hashlib.sha256(b"%d" % at).hexdigest().encode() + b"\n" for at in range(2_000)]
    data = b"".join(written)
    packed = b"".join([gzip.compress(data[:999]), gzip.compress(data[999:])][-members:])
    whole = data if members == 2 else data[999:]
    path = tmp_path / "a.gz"
    for offset in (4_000, 8_190, 16_500, len(packed) - 30):
        before = b"".join(_members(packed[:offset]))
        # A block of the type that there is none of, wherever a block begins; else invalid codes.
        path.write_bytes(packed[:offset] + b"\xff" * 24 + packed[offset + 24 :])
        lines = read_up_to_damage(path)
        assert len(lines) >= before.count(b"\n") > 40
        assert b"".join(lines).startswith(before[: before.rindex(b"\n") + 1])
    # Of one whose trailer is wrong, all of it.
    path.write_bytes(packed[:-8] + bytes(8))
    assert b"".join(read_up_to_damage(path)) == whole


def _members(packed: bytes) -> Iterator[bytes]:
    """What zlib alone unpacks of members that are cut off."""
    while packed:
        unpacker = zlib.decompressobj(wbits=31)
        yield unpacker.decompress(packed)
        packed = unpacker.unused_data


def test_members_and_zeros_between_them_are_read_and_garbage_behind_them_is_damage(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.gz"
    members = [gzip.compress(part) for part in (b"a\nb", b"", b"c\n" * 9_000, b"end")]
    expected = [b"a\n", b"bc\n", *[b"c\n"] * 8_999, b"end"]
    for between in (b"", bytes(1), bytes(40_000)):
        path.write_bytes(between.join([*members, b""]))
        with LineSource(path, max_line_bytes=100) as source:
            assert list(source.lines()) == expected
    path.write_bytes(b"".join(members) + b"garbage")
    assert read_up_to_damage(path) == expected[:-1]


def test_what_unpacks_to_much_is_unpacked_bit_by_bit(tmp_path: Path) -> None:
    """Also where it is damaged: a thousand times what lies on disk is in no memory at once."""
    path = tmp_path / "a.gz"
    packed = gzip.compress(b"x" * 99_999_999 + b"\n")
    for data in (packed, packed[:-8] + bytes(8)):
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with LineSource(path, max_line_bytes=10) as source, suppress(CommandError):
                assert next(source.lines()) == b"x" * 11
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        LineSource(tmp_path / "none", max_line_bytes=10)


def test_standard_input_is_read_and_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x\ny\n")
    os.close(write_end)
    with os.fdopen(read_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with LineSource(Path("-"), max_line_bytes=10) as source:
            assert (source.name, list(source.lines())) == ("", [b"x\n", b"y\n"])
        # It is not ours to close.
        assert os.fstat(read_end)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CommandError, match="closed"):
        LineSource(Path("-"), max_line_bytes=10)


def test_a_wait_for_a_pipe_can_be_ended() -> None:
    """What came whole is a line; the beginning of another is not."""
    for data, whole in ((b"", []), (b"x\ny\nz", [b"x\n", b"y\n"])):
        read_end, write_end = os.pipe()
        os.write(write_end, data)
        found: list[bytes] = []
        with LineSource(Path(f"/dev/fd/{read_end}"), max_line_bytes=10) as source:
            seen = threading.Semaphore(0)

            def read(source: LineSource = source, seen: threading.Semaphore = seen) -> None:
                for line in source.lines():
                    found.append(line)  # noqa: B023 - joined below
                    seen.release()

            reader = threading.Thread(target=read)
            reader.start()
            for _ in whole:
                assert seen.acquire(timeout=10)
            assert reader.is_alive()
            source.stop()
            reader.join(10)
            assert not reader.is_alive()
        assert found == whole
        os.close(read_end)
        os.close(write_end)


def test_a_pipe_has_no_name_whatever_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "pipe", Path("/dev/fd")):
        if path.exists():
            read_end, write_end = os.pipe()
            path = path / str(read_end)
        else:
            os.mkfifo(path)
            read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            write_end = os.open(path, os.O_WRONLY)
        os.write(write_end, b"x\n")
        with LineSource(path, max_line_bytes=10) as source:
            os.close(write_end)
            assert (source.name, source.size_bytes, list(source.lines())) == ("", 0, [b"x\n"])
        os.close(read_end)


def test_a_file_that_a_shell_hands_over_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"x\n")
    with (tmp_path / "a.ndjson").open("rb") as opened:
        path = Path(f"/dev/fd/{opened.fileno()}")
        with LineSource(path, max_line_bytes=10) as source:
            assert (source.name, list(source.lines())) == ("", [b"x\n"])


BAD_LINES = [b"", b"null", b"1", b'"x"', b'{"new_state":1e400}', b"{}", b'{"action":{}}']


@pytest.mark.parametrize("text", BAD_LINES)
def test_bad_lines_raise_only_errors_of_ours(text: bytes) -> None:
    with pytest.raises(InputError):
        draft_from_line(text, "r")
