"""Reading text that comes in parts: symbols, scanners, literals."""
