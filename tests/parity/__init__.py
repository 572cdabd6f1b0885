"""Live parity: the original packages and ours score the same images with the same random weights. Not run by pytest."""
