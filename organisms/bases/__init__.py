"""Base models that are rebuilt from a seed and ship with the text that made them."""
