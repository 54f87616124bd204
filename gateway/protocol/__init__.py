"""The request and response bodies, and the limits of each field."""
