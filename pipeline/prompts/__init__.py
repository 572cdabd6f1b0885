"""Prompt suites: the bundled ones by name, or a text file with one prompt per line."""

from pipeline.prompts.prompt import Prompt
from pipeline.prompts.suites import MAX_CHARACTERS, NOTES, packaged, prompts, slug, suite, suite_name, with_note

__all__ = ["MAX_CHARACTERS", "NOTES", "Prompt", "packaged", "prompts", "slug", "suite", "suite_name", "with_note"]
