"""Tests of the engine. To put a new cell under all of them, add one line to ``CASES`` in oracle.py."""
