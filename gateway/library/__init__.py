"""formgate without HTTP: the `LLM` class, and the event loop that it runs in a thread."""
