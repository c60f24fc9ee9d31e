"""Personal data in text: found, listed, and taken out.

What is found depends on lists and rules, so some is missed and some is taken that is none: `redact` lists every finding, and
the report of `prepare` shows them. On the course's own two marked sets the shares are in the lesson.
"""

from course_utils.data_prep.pii.redaction import KINDS, Entity, Redacted, Redactor, find, redact

__all__ = ["KINDS", "Entity", "Redacted", "Redactor", "find", "redact"]
