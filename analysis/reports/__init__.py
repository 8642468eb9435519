"""The page of a run, a file per protocol."""
