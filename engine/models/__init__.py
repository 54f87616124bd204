"""One file a model family, each stating its difference from the shared decoder."""
