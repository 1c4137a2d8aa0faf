"""Transcripts for people: lines, pages, JSON, and terminals as asciinema plays them.

Made of events, whichever protocol they tell of; nothing here reads a file or a terminal.
"""
