"""Drivers of instruments, a file each, found by themselves."""
