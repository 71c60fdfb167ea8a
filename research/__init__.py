"""Research prototypes."""
