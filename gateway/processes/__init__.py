"""The engine's process and the compile workers: started, asked, watched, replaced."""
