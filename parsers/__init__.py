"""Reads model output as events and builds answer grammars, from one format per model family."""
