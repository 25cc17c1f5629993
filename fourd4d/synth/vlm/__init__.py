"""Rewriting texts with a vision-language model."""
