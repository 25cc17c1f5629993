"""Floor 0: the schemas that travel between rooms. Import the modules, not this package."""
