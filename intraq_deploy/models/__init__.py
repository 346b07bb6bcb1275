"""A checkpoint becomes a `Model`: safe reading, naming its architecture, preprocessing, built-in networks."""
