"""Context-free grammars: rules, their Lark text, shortest texts, samples of terminals."""
