"""Drivers that are not ours (QCoDeS, PyMeasure, PyVISA), held in the same order of making safe."""
