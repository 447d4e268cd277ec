"""The samples a model is calibrated with: where they come from and what the model sees."""
