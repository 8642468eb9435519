"""What may be asked of hardware, its limits and quantities, and in which order and with which bytes it is made safe."""
