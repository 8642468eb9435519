"""Dies and lots of them: drawn, measured, broken, pulsed, read out."""
