"""The commands of `pipeline.commands.cluster`."""

from pipeline.commands.cluster import encoded, job, manifest, schedule, submit

__all__ = ["encoded", "job", "manifest", "schedule", "submit"]
