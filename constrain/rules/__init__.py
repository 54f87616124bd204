"""From the shapes of a schema to the rules of a grammar, and the plan of its guard."""
