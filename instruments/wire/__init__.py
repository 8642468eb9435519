"""Sessions with instruments, what carries their bytes, and the recording of their traffic."""
