"""Natural-language use cases."""
