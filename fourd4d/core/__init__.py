"""The schemas that travel between packages. Import the modules, not this package."""
