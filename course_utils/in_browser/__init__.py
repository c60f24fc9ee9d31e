"""What the Python of a page runs: calculators, and the check of exercises that need no library.

Only the standard library and rooms that need nothing else are imported here; `publishing.calculators` brings them to a page.
"""
