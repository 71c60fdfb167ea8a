"""One file for each kind of thing that goes into a model."""
