"""The decision: what is quantized, how, and what stays in float. No torch."""
