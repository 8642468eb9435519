"""What is known of dies: geometry, records, classes of cells, statistics of defects."""
