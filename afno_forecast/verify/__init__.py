"""Scores of forecasts against analyses, beside persistence and climatology."""
