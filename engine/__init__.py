"""The paged-KV engine: requests in, tokens out. No HTTP, no grammar."""
