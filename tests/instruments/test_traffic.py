"""The traffic file: what goes in comes out, whatever happens to the program, the disk or the file."""

import random
import struct
import sys
import time
import zlib

import pytest
import zstandard
from cobs import cobs
from hypothesis import given, settings
from hypothesis import strategies as st

from instruments.broker.client import Broker
from instruments.wire.recording import Recording
from instruments.wire.traffic import LARGE, MAGIC, Kind, TrafficError, TrafficWriter, read_traffic

sizes = st.sampled_from([0, 1, LARGE - 1, LARGE, LARGE + 1, 4095, 4096, 4097, 9001])
payloads = st.builds(lambda size, seed: random.Random(seed).randbytes(size), sizes, st.integers(0, 3))
framed = st.builds(lambda seed: cobs.encode(random.Random(seed).randbytes(6000 + seed)), st.integers(0, 3))
entries = st.tuples(st.integers(0, 65535), st.sampled_from(Kind), payloads | framed)


def written(path, said):
    path.unlink(missing_ok=True)
    writer = TrafficWriter(path)
    for each in said:
        writer.add(*each)
    writer.close()
    return writer


@settings(max_examples=40)
@given(said=st.lists(entries, max_size=30))
def test_round_trip(said, tmp_path_factory):
    path = tmp_path_factory.mktemp("traffic") / "run.traffic"
    before = time.time()
    writer = written(path, said)
    found = list(read_traffic(path))
    assert [(each.session, each.kind, each.payload) for each in found] == said
    assert all(before - 1 <= each.time <= time.time() + 1 for each in found) and writer.fault == ""


def test_a_large_payload_is_stored_once(tmp_path):
    vector = random.Random(0).randbytes(50_000)
    written(tmp_path / "once", [(1, Kind.SEND, vector)])
    written(tmp_path / "often", [(1, Kind.SEND, vector)] * 100)
    assert (tmp_path / "often").stat().st_size < (tmp_path / "once").stat().st_size + 2000
    assert [each.payload for each in read_traffic(tmp_path / "often")] == [vector] * 100


@pytest.fixture
def blocks(tmp_path):
    """A file of several blocks, and what is in it."""
    path = tmp_path / "run.traffic"
    writer, said = TrafficWriter(path), []
    for number in range(5):
        for _ in range(20):
            said.append(random.Random(number).randbytes(200))
            writer.add(1, Kind.SEND, said[-1])
        writer.flush()
    writer.close()
    return path, said


def test_a_torn_end_is_left_out(blocks):
    path, said = blocks
    whole = path.read_bytes()
    for end in range(18, len(whole), 37):
        path.write_bytes(whole[:end])
        found = [each.payload for each in read_traffic(path)]
        assert found == said[: len(found)] and len(found) % 20 == 0


def test_one_flipped_byte_is_found_and_named(blocks):
    path, _ = blocks
    whole = path.read_bytes()
    begins, at = [], len(MAGIC)
    while at < len(whole):
        begins.append(at)
        at += 12 + int.from_bytes(whole[at : at + 4], "little")
    for at in random.Random(1).sample(range(18, len(whole)), 150):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(TrafficError, match=r"block \d \(bytes \d+ to \d+\)") as error:
            list(read_traffic(path))
        first = int(str(error.value).split("(bytes ")[1].split()[0])
        assert max(each for each in begins if each <= at) == first


def block_of(content, **more):
    """A file of one block with any content, sound by its sums."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(**more)
    block = compressor.compress(content) + compressor.flush()
    sums = struct.pack("<II", len(block), zlib.crc32(block))
    return MAGIC + sums + struct.pack("<I", zlib.crc32(sums)) + block


@pytest.mark.parametrize("said", [{"size": 64 << 20}, {}])
def test_a_block_is_not_unpacked_beyond_what_it_can_hold(tmp_path, said):
    path = tmp_path / "run.traffic"
    path.write_bytes(block_of(bytes(64 << 20), **said))
    assert path.stat().st_size < 10_000
    with pytest.raises(TrafficError, match=r"it claims .* bytes; \d+ at most are unpacked"):
        list(read_traffic(path))


@pytest.mark.parametrize("entry", [b"\1", bytes(16), struct.pack("<dHBBI", 0, 1, 4, 2, 3) + b"\xff\xff\xff",
                                   struct.pack("<dHBBI", 0, 1, 4, 2, 12) + bytes(12),
                                   struct.pack("<dHBBI", 0, 1, 4, 1, 2) + b"ab"])  # fmt: skip
def test_entries_that_nobody_wrote_are_said_to_be_none(tmp_path, entry):
    path = tmp_path / "run.traffic"
    path.write_bytes(block_of(entry, size=len(entry)))
    with pytest.raises(TrafficError, match="holds no traffic of this version"):
        list(read_traffic(path))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"[" * 100_000, b'{"kind": "visa"}', b"\xff"])
def test_a_session_that_nobody_wrote_is_said_to_be_none(tmp_path, payload):
    written(tmp_path / "run.traffic", [(1, Kind.SESSION, payload)])
    with pytest.raises(TrafficError, match="does not say what its sessions are"):
        Recording(tmp_path / "run.traffic")


def test_what_is_no_traffic_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(TrafficError, match=r"notes\.txt is no traffic file"):
        list(read_traffic(tmp_path / "notes.txt"))
    with pytest.raises(TrafficError, match="cannot be read"):
        list(read_traffic(tmp_path / "missing"))


def test_what_was_said_is_in_the_file_soon(tmp_path):
    writer = TrafficWriter(tmp_path / "run.traffic")
    writer.add(1, Kind.SEND, b"hello")
    time.sleep(0.9)
    assert [each.payload for each in read_traffic(tmp_path / "run.traffic")] == [b"hello"]
    writer.close()


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        fits = min(len(data), self.room - self.file.tell())
        if fits <= 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data[:fits])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_leaves_no_gap(tmp_path):
    path = tmp_path / "run.traffic"
    writer, said = TrafficWriter(path), []
    writer._file = disk = FullDisk(writer._file, 5000)
    repeated = random.Random(9).randbytes(3000)
    for number in range(10):
        for payload in (random.Random(number).randbytes(700), repeated):
            said.append(payload)
            writer.add(1, Kind.SEND, payload)
        writer.flush()
        found = [each.payload for each in read_traffic(path)]
        assert found == said[: len(found)]
    assert "No space left" in writer.fault and len(found) < len(said)
    disk.room = 1 << 30
    writer.flush()
    assert writer.fault == ""
    writer.close()
    assert [each.payload for each in read_traffic(path)] == said


def test_a_disk_that_stays_full_costs_a_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("instruments.wire.traffic.KEPT", 50_000)
    writer = TrafficWriter(tmp_path / "run.traffic")
    writer._file = FullDisk(writer._file, 5000)
    for number in range(40):
        writer.add(1, Kind.SEND, random.Random(number).randbytes(4000))
        writer.flush()
    writer.close()
    assert "cannot be replayed" in writer.fault
    assert not writer._unwritten and not writer._pending
    assert len(list(read_traffic(tmp_path / "run.traffic"))) <= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")
def test_the_owner_hears_of_a_full_disk(tmp_path, caplog):
    import resource

    broker = Broker(tmp_path / "station.yaml", traffic=tmp_path / "run.traffic")
    size = (tmp_path / "run.traffic").stat().st_size
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    broker.transport("port", "socket://127.0.0.1:9", {"baudrate": 1, "timeout": 0.1})
    time.sleep(0.8)
    assert "cannot be written" in broker.status()["traffic_fault"]
    broker.close()
    assert "cannot be written" in caplog.text
    assert list(read_traffic(tmp_path / "run.traffic")) == []
