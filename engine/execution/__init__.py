"""Runs a step on the device: buffers, graphs, memory, the model runner."""
