"""What only a machine with a GPU can show: every example on the device, and its figures beside their peers."""
