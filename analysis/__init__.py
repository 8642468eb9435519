"""The record of a lot, and the way from it to tables, figures and the report."""
