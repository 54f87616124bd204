"""Context-free grammars: rules, their shortest texts, samples of their terminals."""
