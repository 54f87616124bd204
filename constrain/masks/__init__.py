"""One answer's state in its grammar: token masks, guards, forced tokens, budgets."""
