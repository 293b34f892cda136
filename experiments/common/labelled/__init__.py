"""Labelled sequences and texts: the data sets of experiments.classify, and files of one's own."""
