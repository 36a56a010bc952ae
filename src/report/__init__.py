"""Summaries, tables, figures and the dashboard."""
