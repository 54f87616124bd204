"""Incremental reading of streamed text: symbols, scanners, the reader, literals."""
