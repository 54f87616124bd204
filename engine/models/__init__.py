"""One file per model family, which states its differences from the shared decoder."""
