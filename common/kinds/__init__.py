"""One file for each kind of thing that goes into a model or comes out of it."""
