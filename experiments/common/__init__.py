"""What the experiments share: settings, recipes, from a series to a forecast, run folders, reports."""
