"""The state of one answer inside its grammar: masks, guards, closing, forced tokens."""
