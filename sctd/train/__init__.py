"""Training: initialization, the guidance gradient, Adam, regularizers, checkpoints and the optimization loop."""
