"""How instruments that are not ours are switched off: by what the station file says, or by what is known of the class.

In a station file it stands among the metadata, which QCoDeS keeps in its snapshots and leaves alone otherwise:

.. code-block:: yaml

    meter:
      type: qcodes.instrument_drivers.Keithley.Keithley2400
      address: GPIB0::24::INSTR
      init:
        metadata:
          switch_off: {send: [":OUTP OFF"], ask: ":OUTP?", expect: "0"}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import Seconds

KEY = "switch_off"
"""Where it stands in an instrument's metadata."""

NONE = "none"
"""What stands there if the user says that the instrument has no output."""

ZERO = r"(?i:off|[+-]?0+(\.0*)?(e[+-]?0+)?)"
"""How instruments say that an output is off."""

_LINE = re.compile(r"[\x20-\x7e]{1,500}")
_EXAMPLE = f'init: {{metadata: {{{KEY}: {{send: [":OUTP OFF"], ask: ":OUTP?", expect: "0"}}}}}}'


class OffRuleError(ValueError):
    """How to switch an instrument off is not known, or what is said of it is wrong; the message says what to write."""


class OffRule(BaseModel):
    """Lines that switch an instrument off, and how it tells that it is.

    Attributes
    ----------
    send
        Lines, in order; sending them twice must do no harm.
    ask, expect
        A question after them, and a regular expression that its whole answer matches when the instrument is off.
    stage
        When: ``source`` (drives lines: before the needles lift off), ``matrix`` (connects them: after the sources),
        ``field`` (after the needles are up).
    limit
        Seconds allowed for all of it.
    pause
        Seconds between the lines and the question.
    terminator
        Ends every line and every answer.
    """

    model_config = ConfigDict(extra="forbid", strict=False)

    send: list[str] = Field(min_length=1, max_length=50)
    ask: str
    expect: str
    stage: Literal["source", "matrix", "field"] = "source"
    limit: Seconds = 5.0
    pause: Seconds = 0.0
    terminator: Literal["\n", "\r", "\r\n"] = "\n"

    @field_validator("expect", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        """``expect: 0`` is the text of a number; ``OFF`` without quotes is none but a truth value."""
        if isinstance(value, bool):
            raise ValueError('put it into quotes: to YAML, OFF and NO without them are "false"')
        return str(value) if isinstance(value, int) else value

    @field_validator("send", "ask")
    @classmethod
    def _plain(cls, value: list[str] | str) -> list[str] | str:
        for line in [value] if isinstance(value, str) else value:
            if _LINE.fullmatch(line) is None:
                raise ValueError(f"{line!r} is no line of printable ASCII")
        return value

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value.encode())
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    @field_validator("limit")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if not 0.1 <= value <= 600:
            raise ValueError(f"{value:g} s; give 0.1 s to 600 s")
        return value

    @property
    def recipe(self) -> OffRecipe:
        """As whoever holds the connection keeps it."""
        end = self.terminator.encode()
        *lines, last = (line.encode() + end for line in self.send)
        steps = (*(OffStep(line) for line in lines), OffStep(last, pause=self.pause))
        asked = OffStep(self.ask.encode() + end, rb"\s*(?:" + self.expect.encode() + rb")\s*")
        return OffRecipe(Stage[self.stage.upper()], (*steps, asked), end, limit=self.limit)

    def __str__(self) -> str:
        return f"{'; '.join(self.send)}, then {self.ask} must answer {self.expect.replace(ZERO, '0 or OFF')}"


@dataclass(frozen=True)
class _Known:
    """Classes of a package by name; None: they have no output."""

    package: str
    classes: str
    rule: OffRule | None


def _rule(line: str, ask: str) -> OffRule:
    return OffRule(send=[line], ask=ask, expect=ZERO)


_ONE = _rule(":OUTP OFF", ":OUTP?")
_TWO = OffRule(send=[":OUTP1 OFF", ":OUTP2 OFF"], ask=":OUTP1?;:OUTP2?", expect=f"{ZERO};{ZERO}")
_TSP_ONE = _rule("smua.source.output=0", "print(smua.source.output)")
_TSP_TWO = OffRule(
    send=["smua.source.output=0", "smub.source.output=0"],
    ask="print(smua.source.output, smub.source.output)",
    expect=rf"{ZERO}\s+{ZERO}",
)

_KNOWN = (
    _Known("qcodes", "Keithley2400 Keithley2450 YokogawaGS200 RohdeSchwarzSGS100A KeysightN51x1", _ONE),
    _Known("qcodes", "Keysight33xxxSingleChannel", _rule(":OUTP1 OFF", ":OUTP1?")),
    _Known("qcodes", "Keysight33xxxDualChannels KeysightB2962A RigolDG1062 RigolDG4000", _TWO),
    _Known("qcodes", "Keithley2601B Keithley2611B Keithley2635B", _TSP_ONE),
    _Known("qcodes", "Keithley2602A Keithley2602B Keithley2604B Keithley2612B Keithley2614B Keithley2634B "
           "Keithley2636B", _TSP_TWO),
    _Known("qcodes", "KeysightN6705B", OffRule(send=[":OUTP OFF, (@1:4)"], ask=":OUTP? (@1:4)",
           expect=f"{ZERO}(,{ZERO})*")),
    _Known("qcodes", "Keysight344xxA Agilent34401A Keithley2000 Keithley6500 Keithley7510 RigolDS1074Z "
           "RigolDS4000", None),
    _Known("pymeasure", "Keithley2400 Keithley2450 Keithley2260B Keithley6221 Keithley6517B YokogawaGS200 "
           "KepcoBOP3612 Agilent33220A Keysight33250A Agilent8257D KeysightN5767A", _ONE),
    _Known("pymeasure", "HP34401A Agilent34410A Keithley2000 Keithley2182 KeithleyDMM6500 LakeShore421 LakeShore425",
           None),
)  # fmt: skip
"""What is known, by the drivers' own commands. Relays and lock-in amplifiers are not here: what makes them safe depends
on what they are connected to."""


def off_rule(driver: type, said: Any) -> OffRule | None:
    """How an instrument is switched off; None if it has no output.

    Parameters
    ----------
    driver
        Its class.
    said
        What stands under `KEY` in the station file; None if nothing does.

    Raises
    ------
    OffRuleError
        Nothing is said and nothing known, or what is said is wrong.
    """
    if said == NONE:
        return None
    if said is not None:
        try:
            return OffRule.model_validate(said)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join([KEY, *map(str, first["loc"])])
            text = first["msg"].removeprefix("Value error, ")
            raise OffRuleError(f"{at}: {text}; write e.g. {_EXAMPLE}, or {KEY}: {NONE} if it has no output") from error
    for each in driver.__mro__:
        package = each.__module__.partition(".")[0]
        for known in _KNOWN:
            if known.package == package and each.__name__ in known.classes.split():
                return known.rule
    raise OffRuleError(
        f"it is not known how a {driver.__name__} is switched off, and nothing may stay on over a needle. Write what "
        f"to send and how it tells that it is off, e.g. {_EXAMPLE}, or {KEY}: {NONE} if it has no output"
    )
