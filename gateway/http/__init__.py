"""HTTP: the application, its middleware, bodies, server-sent events, and limits of connections."""
