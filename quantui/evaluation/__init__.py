"""A model measured on questions it has not seen."""
