"""Experiments to run: python -m experiments.forecast, .predict, .lr_range, .gradient_flow."""
