"""Training: the recipe, the loop and what they are made of."""

from __future__ import annotations

from sinet.training.recipe import Recipe as Recipe
