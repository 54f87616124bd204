"""The parts of a format: regions, markers, calls, parameters."""
