"""Moving objects and landmarks of a span: masks, positions, names."""
