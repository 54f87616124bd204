"""The engine process and the compile workers: start, requests, supervision, restart."""
