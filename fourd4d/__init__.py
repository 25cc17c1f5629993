"""fourd4d: thinking with 4D imagery, in JAX."""

__version__ = "0.1.0"
