"""Runs on a cluster: what launchers know of this program and its commands, and the benchmark as a Kubeflow pipeline."""
