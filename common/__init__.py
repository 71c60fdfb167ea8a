"""The ground floor that every example stands on; imports no domain."""
