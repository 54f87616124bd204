"""The commands beside `serve`: check a schema, examine a machine, chat, and measure a server. Each
is imported only when it is called.
"""
