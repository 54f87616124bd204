"""Chooses the sequences of a step: scheduler, block pool and tables, admission, finish rules."""
