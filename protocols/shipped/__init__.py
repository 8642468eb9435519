"""The protocols that ship, a file each, named as on the command line."""
