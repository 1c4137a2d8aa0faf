"""PostgreSQL's wire protocol (chapter 55 of its manual), version 3.0 and 3.2.

``frames``, ``startup``, ``login``, ``scram``, ``observe`` and ``transcript`` are sans-IO;
``edge`` and ``dial`` speak to the two sides until both are logged in; ``splice`` and
``pump`` carry the session.
"""
