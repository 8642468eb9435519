"""What is run at the station: the sequencer, the protocols and the `xbar` command."""
