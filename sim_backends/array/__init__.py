"""Physics of a crossbar die, without wires: devices, lines, read-out, and how dies of a lot are drawn."""
