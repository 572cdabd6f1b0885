"""Kubernetes: manifests of RayJobs, RayClusters and CronJobs, and the launcher that sends them to its API."""
