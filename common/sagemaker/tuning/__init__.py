"""Tuning jobs, on AWS and here."""
