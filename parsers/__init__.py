"""Model text to events and back to grammars: one declarative format for each model family."""
