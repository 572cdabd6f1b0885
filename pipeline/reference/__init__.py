"""The reference set of the Fréchet distances: sampling its images, its moments, and a run's distances to it."""
