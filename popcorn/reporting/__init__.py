"""Reports on finished runs: leaderboard, ensemble, charts, report page and scores."""
