"""The playground: a page for people, as files that a browser runs as they are."""
