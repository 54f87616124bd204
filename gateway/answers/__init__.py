"""From a request that is understood to the text, calls and numbers of its answer."""
