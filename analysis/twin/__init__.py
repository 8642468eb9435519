"""Simulated dies fitted to recorded ones."""
