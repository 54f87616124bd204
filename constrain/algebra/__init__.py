"""JSON Schema as sets of values: meets, complements, and whether one is empty."""
