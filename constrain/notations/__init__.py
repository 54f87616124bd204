"""Grammars as users write them: Lark, GBNF, structural tags."""
