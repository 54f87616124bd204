"""Translates the grammars of requests: Lark, GBNF, structural tags."""
