"""Grades what learners hand in, for marks: `course grade`.

In the order in which rooms build on each other: coding (values as JSON), child (inside the sandbox), protocol (the line to
it), sandbox, intake (answers in notebooks), marking (one answer), results and tables (what is written), batch (all of it).
"""
