"""Recipes on models of the Hugging Face hub; see README.md."""
