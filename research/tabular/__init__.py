"""Tables: classification and regression."""
