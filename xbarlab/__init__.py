"""What the program is, and where it begins."""

__version__ = "0.1.0"
