"""Stepping trained forecasters through time and writing what they say. The door for Python: `open_session`."""

from .session import open_session as open_session
