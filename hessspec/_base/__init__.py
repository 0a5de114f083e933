"""What knows no operator: vectors of parameter trees, probes, arguments, memory, records."""
