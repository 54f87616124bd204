"""A server's life: command line, listening socket, HTTP processes, start and stop."""
