"""Stage (a): one file per substitution method."""
