"""Recipes: every setting of a run, presets, the settings of each method, and custom objectives."""
