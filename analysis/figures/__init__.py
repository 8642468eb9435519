"""What pages are drawn with: pages, tables, figures."""
