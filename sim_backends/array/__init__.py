"""Physics of a crossbar die, without wires: devices, lines, read-out, and how dies of a lot are drawn."""

from sim_backends.array.compiled_code import keep_somewhere

keep_somewhere()
