"""Computer-vision use cases."""

DOMAIN = "Computer vision"
