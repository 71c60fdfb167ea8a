"""Endpoints, on AWS and here."""
