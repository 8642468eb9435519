"""The simulated instruments, a file or a prefix each."""
