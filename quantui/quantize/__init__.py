"""A recipe carried out on a model."""
