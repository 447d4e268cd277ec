"""Formulas of quantization: the same expressions for numpy arrays and torch tensors."""
