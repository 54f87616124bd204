"""Processes of a tensor-parallel engine: their start, their process group, the way steps take."""
