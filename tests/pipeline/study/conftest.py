from study_fixtures import made_clips, runs, study

__all__ = ["made_clips", "runs", "study"]
