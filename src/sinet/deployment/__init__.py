"""From a trained network to files that run elsewhere, and the one Predictor that runs them."""
