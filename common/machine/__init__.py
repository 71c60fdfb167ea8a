"""The machine: its devices, its processes, and facts about it."""
