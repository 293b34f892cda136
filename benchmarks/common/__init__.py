"""What the benchmarks share: how time is taken, one row, one comparison, one report, and the cases themselves."""
