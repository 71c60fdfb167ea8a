"""From bare tensors to a training loop; `python -m research.ladder`."""
