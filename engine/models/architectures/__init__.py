"""The supported architectures: each file states what differs from the plain decoder."""
