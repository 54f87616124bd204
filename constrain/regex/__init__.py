"""ECMA-262 patterns and formats as terms that meet, have complements, and are bounded."""
