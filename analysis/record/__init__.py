"""The ledger of a lot: what was promised, fired and measured, written durably and read as untrusted."""
