"""Prompts and prompt suites: bundled suites by name, or text files with one prompt per line."""

from pipeline.prompts.prompt import Prompt
from pipeline.prompts.suites import MAX_CHARACTERS, NOTES, bundled, prompts, slug, suite, suite_name, with_note

__all__ = ["MAX_CHARACTERS", "NOTES", "Prompt", "bundled", "prompts", "slug", "suite", "suite_name", "with_note"]
