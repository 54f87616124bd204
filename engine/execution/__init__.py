"""Runs steps on the device: the model runner, its buffers, CUDA graphs and memory."""
