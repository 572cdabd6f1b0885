"""The installed version, as the package metadata has it."""

from importlib.metadata import version

__version__ = version("segmentdreamer")
