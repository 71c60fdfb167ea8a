"""Research prototypes."""

DOMAIN = "Research prototypes, series and tables"
