"""Networks to weights to conductance targets to write schedules, and training for defective hardware."""
