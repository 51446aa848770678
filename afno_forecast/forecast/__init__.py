"""Stepping a trained forecaster through time and writing what it says."""
