"""The spool: what was appended is read back, in order, whole, whatever happens to the disk."""

import errno
import json
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spool import Spool

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def events(spool: Spool, offset: int = 0) -> list[dict[str, object]]:
    return [event for _, event in spool.read(offset)]


@given(bodies=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=5))
def test_any_events_come_back_in_order(tmp_path_factory, bodies):
    spool = Spool(tmp_path_factory.mktemp("spool") / "events.jsonl")
    written = [{**body, "event": "x"} for body in bodies]
    for event in written:
        spool.append(event)
    assert events(spool) == written
    spool.close()


def test_reading_goes_on_from_any_offset(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    for number in range(5):
        spool.append({"event": "x", "number": number})
    offsets = [0] + [offset for offset, _ in spool.read()]
    assert offsets[-1] == spool.size()
    for skipped, offset in enumerate(offsets):
        assert [event["number"] for event in events(spool, offset)] == list(range(skipped, 5))


def test_not_a_number_infinity_and_numpy_scalars_survive(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    values = {"nan": math.nan, "inf": math.inf, "f32": np.float32(0.5), "i": np.int64(3)}
    spool.append({"event": "x", "place": tmp_path, "set": {1}, **values})
    (read,) = events(spool)
    assert math.isnan(read["nan"]) and read["inf"] == math.inf
    assert (read["f32"], read["i"]) == (0.5, 3)
    assert read["place"] == str(tmp_path)


def test_an_event_is_in_the_file_when_append_returns(tmp_path):
    spool = Spool(tmp_path / "deep" / "events.jsonl")
    spool.append({"event": "x"})
    assert json.loads(spool.path.read_text()) == {"event": "x"}


def test_a_missing_file_reads_as_empty(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    assert (events(spool), spool.size(), spool.repair()) == ([], 0, 0)


@pytest.mark.parametrize("torn", [b'{"event":"y"', b'{"event":"y","z":' + b"1" * 200_000, b"\0\0"])
def test_a_torn_last_line_is_not_read_and_is_cut_before_the_next(tmp_path, torn):
    spool = Spool(tmp_path / "events.jsonl")
    spool.append({"event": "x", "number": 0})
    spool.close()
    with spool.path.open("ab") as file:
        file.write(torn)
    assert len(events(spool)) == 1
    later = Spool(spool.path)
    later.append({"event": "x", "number": 1})
    assert [event["number"] for event in events(later)] == [0, 1]
    assert torn not in spool.path.read_bytes()
    assert later.repair() == 0


def test_repair_says_how_much_it_cut(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    spool.path.write_bytes(b'{"event":"x"}\n{"ev')
    assert spool.repair() == 4
    assert events(spool) == [{"event": "x"}]
    spool.path.write_bytes(b"no newline at all")
    assert spool.repair() == 17


def test_damaged_lines_in_the_middle_are_left_out(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    lines = [b'{"event":"a"}', b"\0\0\0", b"[1]", b'{"no":"event"}', b"\xff\xfe", b'{"event":"b"}']
    spool.path.write_bytes(b"\n".join(lines) + b"\n")
    assert [event["event"] for event in events(spool)] == ["a", "b"]


def test_a_full_disk_never_raises_and_loses_nothing(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "events.jsonl")
    spool.append({"event": "x", "number": 0})
    real = os.write

    def full(file, data):
        if len(data) > 5:
            return real(file, data[:5])  # what still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hpo.spool.os.write", full)
    for number in (1, 2, 3):
        spool.append({"event": "x", "number": number})
    assert "No space left on device" in spool.error
    assert len(events(spool)) == 1
    monkeypatch.setattr("hpo.spool.os.write", real)
    spool.append({"event": "x", "number": 4})
    assert spool.error == ""
    assert [event["number"] for event in events(spool)] == [0, 1, 2, 3, 4]


def test_an_unwritable_place_never_raises_and_loses_nothing(tmp_path):
    (tmp_path / "folder").write_text("a file where a folder should be")
    spool = Spool(tmp_path / "folder" / "events.jsonl")
    spool.append({"event": "x", "number": 0})
    assert "folder" in spool.error
    (tmp_path / "folder").unlink()
    spool.append({"event": "x", "number": 1})
    assert [event["number"] for event in events(spool)] == [0, 1]


def test_what_waits_in_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.spool._MOST_WAITING", 100)
    (tmp_path / "folder").write_text("")
    spool = Spool(tmp_path / "folder" / "events.jsonl")
    for number in range(10):
        spool.append({"event": "x", "number": number})
    assert spool.lost == 6
    (tmp_path / "folder").unlink()
    spool.append({"event": "x", "number": 10})
    assert [event["number"] for event in events(spool)] == [0, 1, 2, 3, 10]


def test_reading_a_long_spool_takes_little_memory(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    spool.append({"event": "x", "text": "a" * 200})
    spool.path.write_bytes(spool.path.read_bytes() * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in spool.read()) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_two_readers_see_what_a_writer_adds(tmp_path):
    spool, other = Spool(tmp_path / "events.jsonl"), Spool(Path(tmp_path) / "events.jsonl")
    spool.append({"event": "a"})
    offset, _ = next(other.read())
    spool.append({"event": "b"})
    assert [event["event"] for event in events(other, offset)] == ["b"]
