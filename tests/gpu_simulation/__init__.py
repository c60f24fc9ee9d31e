"""A simulated NVIDIA card, and the lessons on it: what their GPU tiers do, tested where no GPU is.

    python -m tests.gpu_simulation.run --tier t4              every lesson's code cells as on a T4
    python -m tests.gpu_simulation.run --tier a100 --lesson 02

`card.cpp` is the card: a backend of PyTorch for "cuda" whose memory is the host's. It refuses to mix devices, counts what is
allocated against the card's memory, and has the card's number formats. `driver.py` answers for the driver in every process
whose environment has COURSE_SIMULATED_GPU, and `startup/` sees to that. `build.py` compiles, `stand_ins.py` makes small
models under the names of the tiers' models, `run.py` runs lessons.

    python -m tests.gpu_simulation.run --true-size            has each lesson room on each card?

`true_size.py` and `room.py` are for the latter: models of true size, operations on large tensors skipped, and memory counted
over all processes of a lesson.

It shows wrong devices, formats and memory. It does not show what a card's kernels do differently, nor speed, nor how good an
answer is: the models' weights are random.
"""
