"""Training jobs, on AWS and here."""
