"""What `course lab` has each kernel run at its start (PYTHONSTARTUP): its NameErrors say where the notebook makes a name.

Here and not in a lesson's first cell, since after a restart that cell has not been run either. It leaves no name behind.
"""

if "get_ipython" in globals():  # a kernel, and not Python in JupyterLab's terminal
    __import__("course_utils.kernel_errors", fromlist=["explain_errors"]).explain_errors(globals()["get_ipython"]())
