"""Colab as near as it can be had: its Python, its versions, and the course put on top by a notebook's own install cell.

    python -m tests.colab.run --venv FOLDER                  the environment, and every lesson in it
    python -m tests.colab.run --venv FOLDER --lesson 05      one lesson

`image-*.txt` are the images' packages with their versions, as Colab publishes them; `oldest.txt` is what of them the course
is tested on everywhere. `machine.py` makes a virtual environment of an image, `kernel.py` runs cells there, with the network
cut off where asked, `disconnect.py` ends a runtime in the middle of training, `run.py` runs lessons and writes the record.

What stands for something else: `stand_in/` for the module google.colab, which is on no index in the form that Colab has;
the index's build of torch for Colab's own; metadata for packages of the image that neither the course nor its libraries look
for; and a folder for the Drive. What it cannot show is Colab's front end, its GPU (`tests/gpu_simulation`), and its speed.
"""
