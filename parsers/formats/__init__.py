"""What a format is made of: regions, markers, calls, parameters."""
