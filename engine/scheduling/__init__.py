"""Which sequences run in a step: scheduler, block pool and tables, admission, endings."""
