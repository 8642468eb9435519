"""The other end of the wire: simulated dies behind instruments that speak real protocols on real sockets."""
