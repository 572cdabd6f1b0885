"""The leaderboard: a row per method, its columns, paired differences, the paper's Table 2 and report.md."""
