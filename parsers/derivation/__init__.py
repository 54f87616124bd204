"""A format from what a chat template writes: derived from differences, checked by a round trip."""
