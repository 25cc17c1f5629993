"""A small simulator: textured solids that move in 3-D before a moving camera, truth included."""
