"""Networks, and training for defective hardware."""
