"""Grades submissions for marks, `course grade`, and packs what is handed out, `course release`.

In the order in which the modules build on each other: child and running (inside the sandbox), confine and places (the
system calls and folders left to an answer), protocol (the connection to it), sandbox, reading and intake (answers in
notebooks), marking, results (of each learner), csv_files, roster, canvas, overruled and tables (of the class), batch (a
whole inbox), cluster (on Dask workers), nbgrader_course and nbgrader_plugin, release (packs for a class).
"""
