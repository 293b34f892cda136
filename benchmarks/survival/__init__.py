"""Disturbs real trainings and counts what they survive: ``python -m benchmarks.survival --help``."""
