"""HTTP: the application, middleware, request bodies, server-sent events, connection limits."""
