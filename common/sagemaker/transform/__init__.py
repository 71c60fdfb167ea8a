"""Batch transform, on AWS and here."""
