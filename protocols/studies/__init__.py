"""Methods compared over drawn lots, without a wire."""
