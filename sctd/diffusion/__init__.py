"""Diffusion mathematics: noise schedule, solver, segments, times, classifier-free guidance and Perp-Neg."""
