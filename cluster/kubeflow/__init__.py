"""Kubeflow Pipelines: the benchmark as a pipeline, its steps, and the launcher of its runs and schedules."""
