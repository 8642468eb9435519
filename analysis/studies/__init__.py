"""Numbers and pages of the studies that need no wire."""
