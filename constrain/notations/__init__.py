"""Grammars as users write them: Lark and GBNF."""
