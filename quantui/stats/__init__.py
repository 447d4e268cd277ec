"""What calibration saw: ranges of activations, keys, values and weights, layer by layer."""
