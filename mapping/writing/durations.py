"""How long the parts of a station take (s): the one table that `xbar map` and `xbar plan` estimate by.

All assumed; a stop watch at your station gives better ones. (The simulated station has its own,
`sim_backends.bench.clock`: both sides meet on the wire only.)
"""

#: One request to a tester at a serial port and its reply, on the wire.
EXCHANGE = 2e-3
#: From a change of a line's voltage to the first sample or pulse.
SETTLING = 1e-6
#: One conversion of all channels.
CONVERSION = 2e-6
#: After each pulse.
PULSE_GAP = 0.5e-6
#: What a board needs to take a request apart and to answer it.
REQUEST = 100e-6
#: Chuck: to a neighbouring die, up to contact, down to separation (automatic probers: about half a second each).
DIE_STEP, APPROACH, RETREAT = 0.5, 0.6, 0.4
