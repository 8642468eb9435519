"""The one way to touch a die: enter, read, pulse through the ledger, recognise, leave."""
