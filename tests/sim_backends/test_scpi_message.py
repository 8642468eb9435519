"""SCPI and TSP: what is data is never carried out, however it is cut into packets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.wire.scpi import Scpi, with_one, without
from sim_backends.wire.scpi_message import LINE_MAX, Messages, commands, unquoted
from sim_backends.wire.tsp import Attribute, Tsp

# pieces that would switch on if they were read as commands, and signs that cut commands apart
ODD = st.lists(
    st.sampled_from(["OUTP ON", ";", ";:OUTP ON;", ",", "#", "#15", "#0", " ", "\t", "*RST", "a", "1"]), max_size=8
).map("".join)


class Switch:
    """An instrument with an output, and a text that takes anything in quotes."""

    def __init__(self):
        self.on, self.texts = False, []
        handlers = {
            "OUTPut": with_one(lambda text: self._switch(text)),
            "OUTPut?": without(lambda: str(int(self.on))),
            "TEXT": with_one(lambda text: self.texts.append(text)),
        }
        self.scpi = Scpi("x", handlers, lambda: None)

    def _switch(self, text):
        self.on = text == "ON"

    def errors(self):
        found = []
        while (code := int(self.scpi.receive(b"SYST:ERR?\n").split(b",")[0])) != 0:
            found.append(code)
        return found


def in_packets(service, data, sizes):
    """Everything in packets of these sizes, and the rest; what was answered."""
    answered = b""
    for size in sizes:
        answered += service.receive(data[:size])
        data = data[size:]
    return answered + service.receive(data)


@given(st.binary(max_size=200), st.lists(st.integers(1, 7), max_size=40))
def test_a_counted_block_is_data_whatever_is_in_it(content, sizes):
    switch = Switch()
    size = str(len(content)).encode()
    block = b"TEXT #" + str(len(size)).encode() + size + content + b"\nOUTP?\n"
    assert in_packets(switch.scpi, block, sizes) == b"0\n"
    assert switch.texts == ["#"]


@given(ODD, st.sampled_from("\"'"), st.lists(st.integers(1, 7), max_size=20))
def test_text_in_quotes_is_data(content, quote, sizes):
    switch = Switch()
    in_packets(switch.scpi, f"TEXT {quote}{content}{quote};:OUTP?\n".encode(), sizes)
    assert not switch.on
    assert [unquoted(text) for text in switch.texts] == [content]


@given(ODD, st.lists(st.integers(1, 7), max_size=20))
def test_a_block_without_a_count_is_data_up_to_its_line_end(content, sizes):
    switch = Switch()
    assert in_packets(switch.scpi, f"TEXT #0{content}\nOUTP?\n".encode(), sizes) == b"0\n"
    assert switch.texts == ["#"]


def test_text_that_came_whole_may_hold_line_feeds():
    switch = Switch()
    assert switch.scpi.receive(b"TEXT 'a\nOUTP ON\nb'\nOUTP?\n") == b"0\n"


@pytest.mark.parametrize("line", [b"TEXT 'a", b"TEXT 'it's bad'", b'OUTP?;:TEXT "', b"'"])
def test_text_without_its_closing_quote_ends_with_its_line(line):
    switch = Switch()
    assert switch.scpi.receive(line + b"\n") == (b"0\n" if b"?" in line else b"")
    assert switch.scpi.receive(b"OUTP?\n") == b"0\n"
    assert switch.errors() == [-151]


@pytest.mark.parametrize("head", [b"#15AB", b"#9999999999AB", b"#216", b"#2", b"#", b"#0AB"])
def test_half_a_block_is_forgotten_with_its_client(head):
    switch = Switch()
    switch.scpi.receive(b"TEXT " + head)
    switch.scpi.forget()
    assert switch.scpi.receive(b"OUTP?\n") == b"0\n" and switch.errors() == []


@pytest.mark.parametrize("line", ["TEXT #2AB", "TEXT #HFF", "TEXT #", "TEXT #3 12", "#", "#15"])
def test_what_is_no_block_ends_with_its_line(line):
    switch = Switch()
    switch.scpi.receive(line.encode() + b"\n")
    assert switch.scpi.receive(b"OUTP?\n") == b"0\n"


def test_what_a_block_holds_is_not_kept():
    messages = Messages()
    for _ in range(100):
        assert list(messages.feed(b"A #9100000000" if not _ else b"x" * 65536)) == []
    assert len(messages._buffer) < LINE_MAX


@given(st.text(st.sampled_from("aB:;,'\" \t#19?*\n"), max_size=60), st.lists(st.integers(1, 5), max_size=30))
def test_packets_change_nothing_but_text_over_lines(data, sizes):
    whole, cut = Messages(), Messages()
    data = data.replace("\n'", "\n").replace('\n"', "\n") + "\n"
    lines = data.split("\n")
    if any(line.count("'") % 2 or line.count('"') % 2 for line in lines):
        return  # text that goes on over a line end
    expected, found = list(whole.feed(data.encode())), []
    for size in sizes:
        found += cut.feed(data[:size].encode())
        data = data[size:]
    assert found + list(cut.feed(data.encode())) == expected


def test_headers_and_parameters():
    found, open_text = commands(" VOLT\t1.5 , 'a;b' ;; *TRG;OUTP,1; DISP:TEXT 'it''s'; \"x")
    assert open_text
    assert [(each.header, each.parameters) for each in found] == [
        ("VOLT", ["1.5", "'a;b'"]), ("*TRG", []), ("OUTP,1", []), ("DISP:TEXT", ["'it''s'"]),
    ]  # fmt: skip
    assert unquoted("'it''s'") == "it's" and unquoted("'") is None and unquoted("x") is None


# -- TSP ---------------------------------------------------------------------------------------------------------------


class Unit:
    def __init__(self):
        self.on, self.text = False, None
        names = {
            "output": Attribute(lambda: self.on, lambda value: self._set(True)),
            "switch": lambda: self._set(True),
            "settext": lambda text: self._say(text),
        }
        self.tsp = Tsp("x", names, lambda: self._set(True))

    def _set(self, on):
        self.on = on

    def _say(self, text):
        self.text = text


SPOKEN = st.lists(
    st.sampled_from(["switch()", "output=1", " ", "\\", '\\"', "\\'", "]", "[", "--", "reset()", "(", ")", "a"]),
    max_size=8,
).map("".join)


@given(SPOKEN)
def test_text_of_tsp_is_data(content):
    for quoted in (
        '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"',
        "'" + content.replace("\\", "\\\\").replace("'", "\\'") + "'",
        "[==[" + content + "]==]",
    ):
        unit = Unit()
        unit.tsp.receive(f"settext({quoted})\n".encode())
        assert (unit.on, unit.text) == (False, content)


@given(SPOKEN)
def test_comments_of_tsp_are_not_carried_out(content):
    unit = Unit()
    unit.tsp.receive(f"x = 1 --{content}\n".encode())
    unit.tsp.receive(f"x = 2 --[=[ {content} ]=] print(x)\n".encode())
    assert not unit.on
    assert unit.tsp.receive(b"print(x)\n") == b"2.00000e+00\n" or content.startswith("[")


@given(SPOKEN)
def test_scripts_are_not_carried_out_and_end_with_their_client(content):
    unit = Unit()
    unit.tsp.receive(f"loadscript x\n{content}\n".encode())
    assert not unit.on
    unit.tsp.forget()
    assert unit.tsp.receive(b"print(1)\n") == b"1.00000e+00\n"
