"""Computer-vision use cases."""
