"""A run as files that other programs open."""
