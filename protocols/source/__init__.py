"""What protocols and steps are made of: names, source text, identity, and whose code is trusted."""
