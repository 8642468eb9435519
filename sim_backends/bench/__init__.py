"""What is under the needles, the clock, and the log of what happened there."""
