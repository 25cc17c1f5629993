"""Comparisons of several trainings: the same rows, steps and optimizer, one thing changed."""
