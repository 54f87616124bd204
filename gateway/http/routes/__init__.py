"""The endpoints: what each reads, asks and answers."""
