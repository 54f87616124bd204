"""Schemas, regexes and grammars to masks of tokens. No torch, no HTTP."""
