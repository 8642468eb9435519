"""The process that holds the connections of a station and outlives the run (`python -m instruments.broker`)."""
