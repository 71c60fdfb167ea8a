"""A variational autoencoder; `python -m generative.vae`."""
