"""The code that the experiments share: settings, recipes, training and forecasting, run folders, reports."""
