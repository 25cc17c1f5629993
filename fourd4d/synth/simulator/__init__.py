"""Simulated scenes with exact labels."""
