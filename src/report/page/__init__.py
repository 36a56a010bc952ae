"""One self-contained page of many runs, and its figures as files."""
