"""A model and what quantization made of it, side by side: talked to, measured, reported."""
