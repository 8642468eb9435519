"""Texts and files from outside: quantities, plain YAML, bounded npz."""
