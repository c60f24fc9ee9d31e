"""Languages: what is said in which, and that catalogues are read as gettext's own tools read them."""

import io
import json

import pytest

from course_utils import languages
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES, check
from course_utils.exercises.definitions import strip_solution
from course_utils.exercises.quizzes import questions, quiz
from course_utils.glossary import define
from course_utils.in_browser.calls import call
from course_utils.languages import LANGUAGES, TRANSLATIONS, current, messages, read, say, speaking

PO = r"""
# a translator's remark
msgid ""
msgstr "Language: es\n"

#: course_utils/claims.py
msgid "holds"
msgstr "se cumple"

msgid ""
"One line "
"and \"another\", with a \\ and a tab\t."
msgstr ""
"Una línea "
"y \"otra\", con una \\ y un tabulador\t."

#, fuzzy
#| msgid "Close it"
msgid "Close"
msgstr "Ciérralo"

msgid "Stop"
msgstr ""

#~ msgid "gone"
#~ msgstr "ido"
"""


def test_finished_messages_are_read_and_no_others():
    assert read(PO) == {
        "holds": "se cumple",
        'One line and "another", with a \\ and a tab\t.': 'Una línea y "otra", con una \\ y un tabulador\t.',
    }


@pytest.mark.parametrize("file", sorted(languages.FOLDER.rglob("*.po")), ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_catalogues_are_read_as_babel_reads_them(file):
    from babel.messages.pofile import read_po

    theirs = read_po(io.BytesIO(file.read_bytes()))
    assert read(file.read_text(encoding="utf-8")) == {m.id: m.string for m in theirs if m.id and m.string and not m.fuzzy}


def test_a_language_is_spoken_within_its_block_and_in_its_thread_only():
    from concurrent.futures import ThreadPoolExecutor

    with speaking("es"):
        assert current() == "es" and say("holds") == "se cumple"
        with speaking("en"):
            assert say("holds") == "holds"
        assert say("holds") == "se cumple"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(current).result() == "en"
    assert current() == "en" and say("holds") == "holds"


def test_the_environment_says_the_language_of_a_kernel(monkeypatch):
    monkeypatch.setenv(languages.VARIABLE, "es")
    assert say("holds") == "se cumple"
    monkeypatch.setenv(languages.VARIABLE, "tlh")
    assert say("holds") == "holds"  # an unknown one is no reason to stop a lesson


def test_an_unknown_language_is_refused_by_name():
    with pytest.raises(CourseError, match="no language 'tlh'; there are en, es"), speaking("tlh"):
        pass


def test_what_is_not_translated_is_said_in_english_with_its_values():
    with speaking("es"):
        assert say("no such sentence: {value}", value=3) == "no such sentence: 3"
        assert say("{braces} stay") == "{braces} stay"


def test_every_translation_is_a_language_of_the_table():
    assert {folder.name for folder in languages.FOLDER.iterdir()} == set(TRANSLATIONS) == set(LANGUAGES) - {"en"}


# -- the stage ---------------------------------------------------------------------------------------------------------


def test_the_check_speaks_to_the_learner_and_marks_as_before():
    answers = ("no function", lambda *arguments: None, EXERCISES["qlora-6"].mistakes[0].function)
    english = [check("qlora-6", answer, seed=1) for answer in answers]
    with speaking("es"):
        spanish = [check("qlora-6", answer, seed=1) for answer in answers]
        shown = str(spanish[0])
    assert [float(score) for score in english] == [float(score) for score in spanish]
    assert "is not a function" in english[0].message and "no es una función" in spanish[0].message
    assert "devuelve None" in spanish[1].message
    assert "todavía no" in shown and "puntos" in shown
    assert spanish[2].message != english[2].message


def test_a_typical_mistake_is_diagnosed_in_the_learners_language():
    """Every mistake of an exercise that the lesson's catalogue knows, so that diagnoses cannot be left out unseen."""
    exercise = EXERCISES["qlora-2"]
    known = messages("es", "lesson_03")
    for mistake in exercise.mistakes:
        with speaking("es"):
            score = check("qlora-2", mistake.function, seed=3)
        assert known[mistake.diagnosis] in score.message, mistake.diagnosis


def test_the_code_of_an_exercise_is_the_same_in_every_language():
    for exercise in EXERCISES.values():
        with speaking("es"):
            spanish = strip_solution(exercise.source()), exercise.check_source()
        assert spanish == (strip_solution(exercise.source()), exercise.check_source())


def test_a_quiz_is_asked_and_answered_in_the_language():
    right = "abcdefgh"[next(i for i, choice in enumerate(questions("03")[0].choices) if choice[1])]
    with speaking("es"):
        html, answer = quiz("03")._repr_html_(), quiz("03").answer(1, right)
    assert answer.startswith("Correcto. ") and html.count("<b>Correcto.</b>") == len(questions("03"))
    assert questions("03")[0].text not in html
    assert quiz("03").answer(1, right).startswith("Right. ")


def test_a_term_is_defined_in_the_language():
    with speaking("es"):
        spanish = define("learning rate")
    assert define("learning rate").startswith("How far training changes") and spanish.startswith("Cuánto cambia")


def test_a_page_is_answered_in_its_own_language():
    arguments = {"id": "frame-2", "source": f"{EXERCISES['frame-2'].name} = 3"}

    def told(language):
        return json.loads(call(json.dumps({"call": "check", "arguments": arguments, "language": language})))["message"]

    assert "no es una función" in told("es")
    assert "is not a function" in told("en")
