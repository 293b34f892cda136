"""The tables and pictures of single benchmarks that are more than :mod:`benchmarks.common.rows` makes."""
