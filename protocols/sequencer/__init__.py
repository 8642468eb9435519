"""Runs a protocol durably: steps, history, verdicts, stopping, where it came from."""
