"""PostgreSQL's wire protocol (chapter 55 of its manual), version 3.0 and 3.2.

``frames``, ``startup``, ``login``, ``scram``, ``scan``, ``observe``, ``effects``, ``state``
and ``transcript`` are sans-IO; ``edge`` and ``dial`` speak to the two sides until both are
logged in; ``splice`` and ``pump`` carry the session.

A session outlives its target where all of its state is known: ``effects`` reads from SQL
what may stay in a session, ``state`` keeps what has come about, ``rehome`` finds another
target and ``restore`` makes it the same session there. What is taken along: start-up
parameters, settings, prepared statements and channels listened to. What pins a session to
its target: temporary tables, cursors WITH HOLD, advisory locks, DO, CALL and LOAD, settings
by set_config() whose value is not in the text, and whatever is not known. What functions
leave behind inside is seen only as far as the server reports it, and the last values of
sequences are gone. A session in a transaction, or with a statement on its way, ends; none
is ever run twice.
"""
