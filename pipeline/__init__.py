"""From prompts to assets, scores and a leaderboard: jobs, workers, run folders, reports and the command line."""
