"""How far something slow is: after a while, and nothing stays behind of what was quick."""

import os
import subprocess
import sys
import textwrap

import pytest

from course_utils import progress


class Screen:
    """Stands for a notebook: what each line was, over time."""

    def __init__(self, monkeypatch):
        import IPython.display

        self.lines, self.now = [], 0.0
        monkeypatch.setattr(progress, "in_notebook", lambda: True)
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(IPython.display, "display", self.show)

    def show(self, html, display_id):
        self.lines.append(html.data)
        return self

    def update(self, html):
        self.lines.append(html.data)


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


def test_what_is_quick_shows_nothing(screen):
    line = progress.ProgressLine(4, "answer", patience=3.0)
    for done in (1, 2, 4):
        screen.now = done / 2
        line.update(done)
    line.finish()
    assert screen.lines == []


def test_what_is_slow_says_how_long_it_still_takes(screen):
    line = progress.ProgressLine(100, "answer", patience=3.0)
    screen.now = 10.0
    line.update(2, "loss <1")
    assert len(screen.lines) == 2 and 'value="2" max="100"' in screen.lines[-1]
    assert "answer 2 of 100: loss &lt;1, 8 min left" in screen.lines[-1]
    screen.now = 10.1
    line.update(3)
    assert len(screen.lines) == 2  # not more often than an eye can follow
    screen.now = 50.0
    line.update(50)
    assert "answer 50 of 100: 50 s left" in screen.lines[-1]
    line.finish()
    assert screen.lines[-1] == ""


def test_generation_shows_it(screen, tiny, monkeypatch):
    from course_utils import generation

    model, tokenizer = tiny
    monkeypatch.setattr(generation, "PATIENCE", 0.001)
    original = progress.ProgressLine.update

    def a_second_later(self, done, text=""):
        screen.now += 1.0
        original(self, done, text)

    monkeypatch.setattr(progress.ProgressLine, "update", a_second_later)
    answers = generation.generate(model, tokenizer, ["a", "b", "c"], max_new_tokens=4, batch_size=2)
    assert len(answers) == 3
    shown = [line for line in screen.lines if "answer" in line]
    assert "answer 0 of 3: starting" in shown[0] and "answer 2 of 3" in "".join(shown) and screen.lines[-1] == ""


def test_an_interrupted_fit_says_what_the_model_has_learned(tmp_path):
    """Ctrl-C in a real process, in the middle of a run."""
    code = textwrap.dedent("""
        import os, signal, sys
        sys.path.insert(0, "tests")
        from support import tiny_llama
        from course_utils import models, progress, training
        from course_utils.training import history
        said = []
        history.ProgressLine.finish = lambda self, text="": said.append(text)
        tokenizer = models.load_tokenizer(tier="cpu")
        rows = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]] * 40
        def interrupt(step, total, _history):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
        try:
            training.fit(tiny_llama(), tokenizer, rows, settings=training.Settings(batch_size=2), on_step=interrupt)
        except KeyboardInterrupt:
            print(said)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert "['Stopped after " in done.stdout, done.stderr
    assert " of 20 steps in " in done.stdout and "The model keeps what it has learned in them" in done.stdout
