"""Tools that the six notebooks of the course share.

Importing the package changes nothing of the process; where a process starts, `session.prepare_process` does. Nothing heavy
is imported here: torch, transformers and matplotlib load inside the functions that need them, so that `import course_utils`
costs a fraction of a second and `course --help` answers at once.
"""

__version__ = "2.0.0"
