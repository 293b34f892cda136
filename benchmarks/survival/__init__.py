"""Disturbs real trainings and counts what they survive: ``python -m benchmarks.survival --help``.

:mod:`~benchmarks.survival.jobs` starts runs of experiments.forecast and ends them: SIGKILL, SIGTERM, SIGINT, disks
that fill up or become read-only, folders that are deleted. :mod:`~benchmarks.survival.damage` damages what they
saved.
"""
