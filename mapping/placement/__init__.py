"""Which weight of which layer sits in which cell, and how it is coded."""
