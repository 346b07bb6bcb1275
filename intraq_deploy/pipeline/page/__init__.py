"""A run as a page for people: one HTML file that needs nothing beside it, or Markdown for a model card."""
