"""Forecasts of many steps: what experiments.forecast --horizon, backtest and predict share."""
