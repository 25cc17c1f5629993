"""Checkpoint directories of either kind, opened and exported."""
