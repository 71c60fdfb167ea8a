"""Natural-language use cases."""

DOMAIN = "Language: text and speech"
