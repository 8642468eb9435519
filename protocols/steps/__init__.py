"""What is done to one die, for any protocol."""
