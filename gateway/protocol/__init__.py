"""Request bodies: their parsing, types, limits and cross-field rules."""
