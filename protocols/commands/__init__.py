"""What `xbar` does with a lot folder beside running it."""
