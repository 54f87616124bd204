"""From a schema that the algebra has worked out to the rules of a grammar."""
