"""What runs inside the container, and what is sent there."""
