"""Grades submissions for marks: `course grade`.

In the order in which the modules build on each other: coding (values as JSON), child (inside the sandbox), protocol (the
connection to it), sandbox, intake (answers in notebooks), marking (one answer), results and tables (the files written),
batch (a whole inbox).
"""
