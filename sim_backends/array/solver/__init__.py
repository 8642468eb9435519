"""The currents and voltages of an array with resistive lines, and their gradients: `network.solve` and its methods."""
