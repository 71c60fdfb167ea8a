"""From one text to another: an encoder reads, a decoder writes and looks back at what was read."""
