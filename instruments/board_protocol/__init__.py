"""The wire of the framed array board: frames, link, capabilities, calibration."""
