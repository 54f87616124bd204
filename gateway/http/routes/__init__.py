"""The endpoints: each parses its request, calls a service and returns the response."""
