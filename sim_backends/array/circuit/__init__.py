"""Arrays in use: bias schemes, columns, drops along lines, products."""
