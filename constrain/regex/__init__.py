"""ECMA-262 patterns and formats as Lark terminals with intersection and complement, bounded."""
