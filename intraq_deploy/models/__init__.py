"""A checkpoint becomes a `Model`: safe reading, naming its architecture, preprocessing, built-in networks."""

from intraq_deploy.models.loading import load_model
from intraq_deploy.models.model import Model, Preprocessing, Source

__all__ = ["Model", "Preprocessing", "Source", "load_model"]
