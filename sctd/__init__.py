"""Text-to-3D by Segmented Consistency Trajectory Distillation (SegmentDreamer): equations, Gaussians, rendering, training."""
