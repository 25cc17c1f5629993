"""Live comparison with the reference implementation."""
