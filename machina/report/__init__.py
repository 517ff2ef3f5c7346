"""What a user looks at: scores, plots, the live view, videos, evaluation tables."""
