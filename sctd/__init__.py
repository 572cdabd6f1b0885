"""Text-to-3D by Segmented Consistency Trajectory Distillation (SegmentDreamer): from equations to Gaussians."""
