"""A server from its command line to its end: flags, sockets, processes that speak HTTP."""
