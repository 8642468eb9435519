"""Station files as YAML: what everybody reads alike is read, everything else is refused or stays text."""

import pytest

from instruments import plain_yaml as here
from sim_backends.array.files import plain_yaml as there

READERS = pytest.mark.parametrize("side", [here, there], ids=["instruments", "sim_backends"])


@READERS
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5), ("-3", -3), (".5", 0.5), ("5.", 5.0), ("1e-9", 1e-9), ("yes", True), ("~", None),
        ("0.9 V", "0.9 V"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("1:30", "1:30"), ("010", "010"), ("0b11", "0b11"),
        (".nan", ".nan"),
        ("-.inf", "-.inf"), ("1.0e999", "1.0e999"), ("2026-11-29", "2026-11-29"), ("!!str 5", "5"), ("'5'", "5"),
    ],
)  # fmt: skip
def test_a_number_is_what_everybody_reads_as_one(side, text, value):
    read = side.parse_yaml(f"a: {text}", "f")["a"]
    assert read == value and type(read) is type(value)


@READERS
@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: {b: 1, 'b': 2}", "true: 1\nyes: 2", "1: a\n1.0: b", "a: !!float .nan", "a: !!int '0x10'",
     "a: !!binary aGVsbG8=", "a: !!python/name:os.system", "a: &x [*x]", "[" * 700, "a: 1\n---\nb: 2", "? [1]\n: 2",
     "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{f'*x{n - 1},' * 9}]\n" for n in range(1, 9))],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(side, text):
    with pytest.raises(side.PlainYamlError, match="plain"):
        side.parse_yaml(text, "bench.yaml")


@READERS
def test_references_and_merges_of_plain_values_are_taken(side):
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, x: 3}"
    assert side.parse_yaml(text, "f") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}}


@READERS
def test_a_file_is_utf_8_with_or_without_a_mark(side, tmp_path):
    file = tmp_path / "bench.yaml"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + "a: 50 µm  # größter Überhub\r\nb: 1\r\n".encode())
        assert side.read_yaml(file) == {"a": "50 µm", "b": 1}
    file.write_bytes("a: 50 µm".encode("cp1252"))
    with pytest.raises(side.PlainYamlError, match="UTF-8"):
        side.read_yaml(file)
    file.write_bytes(b"# " + b"x" * (side.FILE_LARGEST + 1))
    with pytest.raises(side.PlainYamlError, match="larger than"):
        side.read_yaml(file)
    with pytest.raises(side.PlainYamlError, match="cannot be read"):
        side.read_yaml(tmp_path)
