"""From the record to numbers, a file per protocol."""
