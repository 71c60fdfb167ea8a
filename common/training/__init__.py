"""One training: its run on disk, its loop, its step, its checkpoints."""
