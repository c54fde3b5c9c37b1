"""From a trained network to a smaller or faster one: re-parameterize, quantize."""
