"""Transcripts that can be trusted: a versioned file format, its writer, readers and judge.

What the records *mean* belongs to the protocols; nothing here knows PostgreSQL or SSH.
"""
