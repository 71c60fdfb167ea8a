"""Spoken digits and keywords."""
