"""Data: sources that say where they come from, and loaders that give the same batches every time."""
