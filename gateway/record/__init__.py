"""Transcripts that can be trusted: a versioned file format, its writer, readers and judge.

What the records *mean* belongs to the protocols, and how people are shown it to ``show``;
beyond the layout of its payloads nothing here knows PostgreSQL or SSH.
"""
