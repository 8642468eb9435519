"""A run that is only counted."""
