"""What is said on the terminal, and to whom."""
