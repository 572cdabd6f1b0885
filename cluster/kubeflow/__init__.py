"""Kubeflow Pipelines: steps that describe and follow RayJobs, and the launcher of their runs and schedules."""
