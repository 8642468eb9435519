"""What sits in the crosspoints: one small interface, and the devices that fill it."""
