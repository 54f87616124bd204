"""Seeded random requests to a running server, and the judge of what it does with them."""
