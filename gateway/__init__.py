"""HTTP in, engine out: everything a client sees, and the processes behind it."""
