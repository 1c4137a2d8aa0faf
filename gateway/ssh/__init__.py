"""SSH: from the log-in to the last channel.

``edge`` (towards the client) and ``dial`` (towards the target) log in over ``peers``, which
are ``legs``; only these four may import asyncssh. ``splice`` then carries the session and
``relay`` judges each of its messages. ``notes`` says what goes into the transcript, with
``sftp`` and ``scp`` for the files that moved; ``transcript`` reads it back.
"""
