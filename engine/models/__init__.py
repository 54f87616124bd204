"""The decoder that all models share, its attention blocks, and the registry of architectures."""
