"""Sockets and languages (frames, SCPI, TSP), and what goes wrong on them."""
