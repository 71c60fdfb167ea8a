"""Flow matching and diffusion; `python -m generative.flow`."""
