"""Exercises of section 05, dataset preparation."""

from __future__ import annotations

from course_utils.exercises.definitions import Exercise, Mistake


def jaccard(one, other):
    """How alike are two texts?

    Args:
        one, other: text; words are separated by white space, and case does not matter.

    Returns:
        The Jaccard index of their sets of neighbouring word pairs: pairs in both, over pairs in one or the other. 0.0 if
        neither has a pair.
    """
    ### BEGIN SOLUTION
    pairs = []
    for text in (one, other):
        words = text.lower().split()
        pairs.append(set(zip(words, words[1:])))
    union = pairs[0] | pairs[1]
    return len(pairs[0] & pairs[1]) / len(union) if union else 0.0
    ### END SOLUTION


def _text_cases(random):
    words = (
        "lamp desk late Parcel broken refund where Order red again Please box When blue Hello cover price Thanks button page "
        "return Monday cable shop wrong Still screen open"
    ).split()
    cases = []
    for kind in (0, 1, 2, 3) * 3:
        base = [str(w) for w in random.choice(words, size=int(random.integers(7, 25)), replace=False)]
        changed = list(base)
        for position in random.choice(len(base) - 2, size=int(random.integers(1, 2 + len(base) // 5)), replace=False):
            changed[position] = "kettle"
        # One difference at a time: repeated pairs (sets or lists), upper case, repeated spaces.
        one = [*base, *base[:2]] if kind == 0 else base
        other = " ".join(changed if kind else changed[:-2])
        other = other.upper() if kind == 1 else other.replace(" ", "  ", 3) if kind == 2 else other
        other = other.replace(" ", "\t", 1).replace(" ", "\n", 1) + "\n" if kind == 3 else other  # white space too
        cases.append((" ".join(one), other))
    cases.append(("lamp", "desk"))
    return cases


def _pairs(text, lower=True):
    words = (text.lower() if lower else text).split()
    return list(zip(words, words[1:]))


def _share(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


def _single_words(one, other):
    return _share(set(one.lower().split()), set(other.lower().split()))


def _case_matters(one, other):
    return _share(set(_pairs(one, False)), set(_pairs(other, False)))


def _characters(one, other):
    a, b = one.lower(), other.lower()
    return _share(set(zip(a, a[1:])), set(zip(b, b[1:])))


def _of_the_smaller(one, other):
    a, b = set(_pairs(one)), set(_pairs(other))
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def _of_the_sum(one, other):
    a, b = set(_pairs(one)), set(_pairs(other))
    return len(a & b) / (len(a) + len(b)) if a or b else 0.0


def _dice(one, other):
    a, b = set(_pairs(one)), set(_pairs(other))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0


def _single_spaces(one, other):
    a, b = ([*text.lower().split(" ")] for text in (one, other))
    return _share(set(zip(a, a[1:])), set(zip(b, b[1:])))


def _only_spaces(one, other):
    import re

    a, b = ([word for word in re.split(" +", text.lower()) if word] for text in (one, other))
    return _share(set(zip(a, a[1:])), set(zip(b, b[1:])))


def _by_lists(one, other):
    a, b = _pairs(one), _pairs(other)
    return sum(pair in b for pair in a) / len([*a, *(pair for pair in b if pair not in a)]) if a or b else 0.0


def faults(messages):
    """What is wrong with a conversation, of three things?

    Args:
        messages: list of dictionaries; each may have "role" and "content", or lack them.

    Returns:
        Sorted list of codes, each at most once:
        "role" if a message has no role, or one that is not system, user or assistant;
        "content" if a message's content is missing, is no text, or is only white space;
        "answer" if no message has the role assistant.
    """
    ### BEGIN SOLUTION
    found = set()
    for message in messages:
        if message.get("role") not in ("system", "user", "assistant"):
            found.add("role")
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            found.add("content")
    if not any(message.get("role") == "assistant" for message in messages):
        found.add("answer")
    return sorted(found)
    ### END SOLUTION


def _conversation_cases(random):
    def conversation():
        return [{"role": "system", "content": "s"}, {"role": "user", "content": f"order {int(random.integers(1000, 9999))}"},
                {"role": "assistant", "content": "yes"}]  # fmt: skip

    of_role = [
        lambda m, at: m[at].pop("role"),
        lambda m, at: m[at].update(role="customer"),
        lambda m, at: m[at].update(role="Assistant"),
    ]
    of_content = [
        lambda m, at: m[at].pop("content"),
        lambda m, at: m[at].update(content="  \n"),
        lambda m, at: m[at].update(content=None),
        lambda m, at: m[at].update(content=12345),
        lambda m, at: (m[0].update(content=""), m[at].update(content=" ")),
    ]
    # Every set of codes as often as any other, in conversations that end in every way, so that guessing from the last
    # message earns nothing; each change takes its turn.
    cases, turn = [], int(random.integers(15))
    for role, content, end in [(r, c, e) for r in (0, 1) for c in (0, 1) for e in (0, 1)] * 4:
        messages, turn = conversation(), turn + 1
        answered = 1 if end else int(random.integers(1, 3))  # a change to the answer would go with it
        if role:
            of_role[turn % 3](messages, 1 if end else int(random.integers(1, 3)))
        if content:
            of_content[turn % 5](messages, answered)
        if end:  # nobody answers; the length says nothing of that
            messages[2] = {"role": "user", "content": "please"}
        if random.random() < 0.8:
            messages.append({"role": "user", "content": "thanks"})
        cases.append((messages,))
    return [*cases, ([],)]


def _checked(role=None, content=None, answer=None):
    """A variant of the solution with one test replaced."""

    def check(messages):
        codes = set()
        for message in messages:
            if (role or (lambda m: m.get("role") not in ("system", "user", "assistant")))(message):
                codes.add("role")
            if (content or (lambda m: not isinstance(m.get("content"), str) or not m["content"].strip()))(message):
                codes.add("content")
        if (answer or (lambda ms: not any(m.get("role") == "assistant" for m in ms)))(messages):
            codes.add("answer")
        return sorted(codes)

    return check


def _blank_passes(messages):
    return _checked(content=lambda m: not isinstance(m.get("content"), str) or not m["content"])(messages)


def _any_type_passes(messages):
    return _checked(content=lambda m: m.get("content") is None or not str(m["content"]).strip())(messages)


def _any_role_passes(messages):
    return _checked(role=lambda m: "role" not in m)(messages)


def _case_of_roles(messages):
    names = ("system", "user", "assistant")
    return _checked(
        role=lambda m: str(m.get("role")).lower() not in names,
        answer=lambda ms: not any(str(m.get("role")).lower() == "assistant" for m in ms),
    )(messages)


def _answer_must_be_last(messages):
    return _checked(answer=lambda ms: bool(ms) and ms[-1].get("role") != "assistant")(messages)


def _one_code_a_message(messages):
    codes = []
    for message in messages:
        codes += _checked(answer=lambda ms: False)([message])
    return sorted(codes + _checked(role=lambda m: False, content=lambda m: False)(messages))


def _first_only(messages):
    return _checked()(messages)[:1]


def held_out_rows(customers, share):
    """Which rows are held out for validation, so that no customer is on both sides?

    Args:
        customers: the customer of each row, in order; None for a row that belongs to nobody else.
        share: of all rows; between 0 and 1.

    Returns:
        Sorted list of row numbers. Customers are taken whole, the last one of the list first (a customer's place is where they
        first occur; a None is a customer of its own), until at least `share` of all rows are held out.
    """
    ### BEGIN SOLUTION
    groups = {}
    for row, customer in enumerate(customers):
        groups.setdefault(("alone", row) if customer is None else customer, []).append(row)
    rows = []
    for members in reversed(list(groups.values())):
        if len(rows) >= share * len(customers):
            break
        rows += members
    return sorted(rows)
    ### END SOLUTION


def _exact_share(rows, n):
    """Whether floats, fractions and decimals agree that `rows` of `n` rows are a share of rows / n."""
    from fractions import Fraction

    share = rows / n
    exact = Fraction(rows, n)
    return share * n == rows and (1 - share) * n == n - rows and Fraction(share) <= exact and Fraction(repr(share)) <= exact


def _customer_cases(random):
    cases = []
    for _ in range(4):
        n, last = int(random.integers(16, 30)), int(random.integers(3, 7))
        while not _exact_share(last, n):  # otherwise rounding would decide the last case, and an exact answer would be wrong
            n += 1
        customers = [f"c{int(i)}" if i < 5 else None for i in random.integers(0, 7, size=n)]
        customers[0] = customers[-1 - last] = "first and late"
        customers[n // 2 - 1] = customers[n // 2] = None
        customers[-last:] = ["last"] * last
        cases.append(
            (customers, float(random.uniform(last - 1.8, last - 1.1)) / n)
        )  # the last customer is more than the share
        cases.append((customers, float(random.uniform(last + 1.2, last + 2.9)) / n))
        cases.append((customers, last / n))  # the last customer is exactly the share
    return cases


def _grouped(customers, key):
    groups = {}
    for row, customer in enumerate(customers):
        groups.setdefault(key(row, customer), []).append(row)
    return groups


def _take(groups, n, share, order=reversed, more=None):
    rows = []
    for members in order(list(groups.values())):
        if len(rows) >= share * n:
            break
        rows += members
    return sorted(rows)


def _rows_alone(customers, share):
    import math

    return list(range(len(customers) - math.ceil(share * len(customers)), len(customers)))


def _none_is_one(customers, share):
    return _take(_grouped(customers, lambda row, customer: customer), len(customers), share)


def _first_customers(customers, share):
    return _take(
        _grouped(customers, lambda r, c: ("alone", r) if c is None else c),
        len(customers),
        share,
        order=lambda groups: groups,
    )


def _share_of_customers(customers, share):
    groups = _grouped(customers, lambda r, c: ("alone", r) if c is None else c)
    chosen = list(groups.values())[::-1]
    held_out_groups = []
    while len(held_out_groups) < share * len(groups):
        held_out_groups.append(chosen.pop(0))
    return sorted(row for members in held_out_groups for row in members)


def _cut_in_two(customers, share):
    import math

    groups = _grouped(customers, lambda r, c: ("alone", r) if c is None else c)
    rows = [row for members in reversed(list(groups.values())) for row in members]
    return sorted(rows[: math.ceil(share * len(customers))])


def _never_over(customers, share):
    groups = _grouped(customers, lambda r, c: ("alone", r) if c is None else c)
    rows = []
    for members in reversed(list(groups.values())):
        if len(rows) + len(members) > share * len(customers):
            break
        rows += members
    return sorted(rows)


def _the_training_rows(customers, share):
    held_out_rows = _take(_grouped(customers, lambda r, c: ("alone", r) if c is None else c), len(customers), share)
    return [row for row in range(len(customers)) if row not in held_out_rows]


def leaks(train, test, n):
    """Which test texts share a run of n words with a training text?

    Args:
        train, test: lists of texts; words are separated by white space, and case does not matter.
        n: words in a row.

    Returns:
        Sorted list of numbers of test texts.
    """

    ### BEGIN SOLUTION
    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    seen = set().union(*(runs(text) for text in train))
    return [index for index, text in enumerate(test) if runs(text) & seen]
    ### END SOLUTION


def _leak_cases(random):
    words = [f"w{i}" for i in range(200)]
    cases, seen_positions = [], set()
    for n in (3, 4, 5) * 3:
        train = [[str(w) for w in random.choice(words, size=14, replace=False)] for _ in range(4)]
        test = [[str(w) for w in random.choice(words, size=12, replace=False)] for _ in range(6)]
        test[2][1 : n + 3] = train[1][4 : n + 6]  # a longer run: leaks
        test[1][2 : 2 + n] = train[2][5 : 5 + n]  # a run of n: leaks
        test[3][0 : n - 1] = train[0][1:n]  # one word too few: does not leak
        test[4][-n:] = train[3][-n:]  # at the end of both: leaks
        last = train[0][-(n - 1) :] + train[1][:1]
        test[5][3 : 3 + n] = last  # only across the border between two training texts: does not leak
        test.append(train[2][::-1][:12])  # many words in common, but not in a row: does not leak
        test[1] = [w.upper() for w in test[1]]
        train[1] = [w.upper() for w in train[1]]  # a copy escapes neither way
        test[0] = train[1][1 - n :]  # shorter than a run, though it ends a training text
        for _ in range(int(random.integers(0, 4))):  # nothing in common
            test.append([f"v{int(i)}" for i in random.integers(200, size=12)])
        while True:  # a different order in each case, so that no list of numbers is right in all of them
            order = [int(i) for i in random.permutation(len(test))]
            leaking_positions = tuple(position for position, i in enumerate(order) if i in (1, 2, 4))
            if leaking_positions not in seen_positions:
                break
        seen_positions.add(leaking_positions)
        texts = [("\n " if i == 1 else " ").join(test[i]) for i in order]  # blanks are not the only white space
        cases.append(([" ".join(t) for t in train], texts, n))
    return cases


def _runs(text, n, lower=True):
    words = (text.lower() if lower else text).split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _case_of_words(train, test, n):
    seen = set().union(*(_runs(t, n, False) for t in train))
    return [i for i, t in enumerate(test) if _runs(t, n, False) & seen]


def _only_test_lowered(train, test, n):
    seen = set().union(*(_runs(t, n, False) for t in train))
    return [i for i, t in enumerate(test) if _runs(t, n) & seen]


def _words_at_blanks(train, test, n):
    def runs(text):
        words = text.lower().split(" ")
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    seen = set().union(*(runs(t) for t in train))
    return [i for i, t in enumerate(test) if runs(t) & seen]


def _last_run_missed(train, test, n):
    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n)}

    seen = set().union(*(runs(t) for t in train))
    return [i for i, t in enumerate(test) if runs(t) & seen]


def _one_word_less(train, test, n):
    seen = set().union(*(_runs(t, n - 1) for t in train))
    return [i for i, t in enumerate(test) if _runs(t, n - 1) & seen]


def _one_word_more(train, test, n):
    seen = set().union(*(_runs(t, n + 1) for t in train))
    return [i for i, t in enumerate(test) if _runs(t, n + 1) & seen]


def _all_in_one(train, test, n):
    seen = _runs(" ".join(train), n)
    return [i for i, t in enumerate(test) if _runs(t, n) & seen]


def _whole_texts(train, test, n):
    training_texts = {t.lower() for t in train}
    return [i for i, t in enumerate(test) if t.lower() in training_texts]


def _the_training_texts(train, test, n):
    seen = set().union(*(_runs(t, n) for t in test))
    return [i for i, t in enumerate(train) if _runs(t, n) & seen]


def _any_n_words(train, test, n):
    seen = {w for t in train for w in t.lower().split()}
    return [i for i, t in enumerate(test) if len(seen & set(t.lower().split())) >= n]


def is_card_number(text):
    """Luhn's check of a card number (1954; ISO/IEC 7812).

    Args:
        text: digits, with spaces or hyphens between them.

    Returns:
        True if it has 13 to 19 digits and these sum up to a multiple of ten, where every second digit, counted from the last
        but one to the left, is doubled, and 9 is taken from what is then over 9.
    """
    ### BEGIN SOLUTION
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        if place % 2:
            digit = 2 * digit - 9 * (2 * digit > 9)
        total += digit
    return total % 10 == 0
    ### END SOLUTION


def _card_cases(random):
    def number(length, valid):
        digits = [int(d) for d in random.integers(0, 10, size=length - 1)]
        digits[0] = digits[0] or 4
        total = sum(2 * d - 9 * (2 * d > 9) if position % 2 == 0 else d for position, d in enumerate(reversed(digits)))
        check = (-total) % 10
        return "".join(map(str, [*digits, check if valid else (check + int(random.integers(1, 10))) % 10]))

    def spaced(text):
        return " ".join(text[i : i + 4] for i in range(0, len(text), 4))

    # Enough cases to tell knowing from guessing: with two values, every second guess is right.
    valid = [number(length, True) for length in (13, 14, 15, 16, 16, 17, 18, 19) * 2]
    wrong = [number(length, False) for length in (13, 14, 15, 16, 16, 17, 18, 19)]
    short = [number(length, True) for length in (11, 12, 20, 21)]
    # 16 digits that only one of the wrong rules accepts; from the left, even lengths happen to be doubled correctly.
    rules = (_luhn, _check_digit_doubled, _not_folded, _nothing_doubled)
    for rule in rules[1:] * 3:
        while sum(other(candidate := number(16, False)) for other in rules) != 1 or not rule(candidate):
            pass
        wrong.append(candidate)
    shapes = (lambda n: n, spaced, lambda n: f"{n[:4]}-{n[4:]}")
    return [(shapes[i % 3](n),) for i, n in enumerate([*valid, *wrong, *short])]


def _luhn(text, double=lambda position, n: position % 2 == 1, fold=True, lengths=(13, 19), clean=str.isdigit):
    digits = [int(c) for c in text if clean(c)]
    if not lengths[0] <= len(digits) <= lengths[1]:
        return False
    total = 0
    for position, digit in enumerate(reversed(digits)):
        if double(position, len(digits)):
            digit = 2 * digit - (9 if fold and 2 * digit > 9 else 0)
        total += digit
    return total % 10 == 0


def _from_the_left(text):
    return _luhn(text, double=lambda position, n: (n - 1 - position) % 2 == 0)


def _check_digit_doubled(text):
    return _luhn(text, double=lambda position, n: position % 2 == 0)


def _not_folded(text):
    return _luhn(text, fold=False)


def _nothing_doubled(text):
    return _luhn(text, double=lambda position, n: False)


def _any_length(text):
    return _luhn(text, lengths=(1, 99))


def _only_sixteen(text):
    return _luhn(text, lengths=(16, 16))


def _separators_refused(text):
    return text.isdigit() and _luhn(text)


EXERCISES = (
    Exercise(
        id="data-1",
        title="How alike are two texts?",
        statement="Compute the Jaccard index of the sets of neighbouring word pairs of two texts.",
        solution=jaccard,
        cases=_text_cases,
        points=3,
        objectives=(2,),
        mistakes=(
            Mistake(_single_words, "These are single words. Pairs of neighbours know the order: \"not late\" and \"late, not\" differ."),
            Mistake(_case_matters, "Case counts in your answer; copies often differ in nothing else."),
            Mistake(_characters, "These are pairs of characters; asked for are pairs of words."),
            Mistake(_of_the_smaller, "You divide by the smaller set (that is containment); the Jaccard index divides by the union."),
            Mistake(_of_the_sum, "You divide by the sum of both sizes, which counts common pairs twice; take the size of the union."),
            Mistake(_dice, "This is Dice's coefficient, 2 common over the sum of sizes; the Jaccard index is common over union."),
            Mistake(_single_spaces, "With split(\" \") two spaces make an empty word; split() takes any white space."),
            Mistake(_only_spaces, "Words are separated only at spaces; tabs and line ends are white space too: split() takes them all."),
            Mistake(_by_lists, "You count pairs as often as they occur; the index is one of sets."),
        ),
        hint="words = text.lower().split(); set(zip(words, words[1:])); then & and |.",
        tolerance=1e-9,
    ),
    Exercise(
        id="data-2",
        title="A validator in ten lines",
        statement="Say what is wrong with a conversation: roles, contents, and whether there is an answer to learn from.",
        solution=faults,
        cases=_conversation_cases,
        points=4,
        objectives=(1,),
        mistakes=(
            Mistake(_blank_passes, "A content of white space only passes; the model would learn to say nothing. Strip it first."),
            Mistake(_any_type_passes, "A content that is a number passes; hosts want text."),
            Mistake(_any_role_passes, "Only a missing role is found; \"customer\" is no role either."),
            Mistake(_case_of_roles, "\"Assistant\" passes for \"assistant\"; hosts and chat templates compare letter by letter."),
            Mistake(_answer_must_be_last, "\"answer\" asks whether there is any assistant message, wherever it is, also in an empty list."),
            Mistake(_one_code_a_message, "Your list has a code once per message; each code belongs there once."),
            Mistake(_first_only, "Only one fault is named; a row can have several, and all have to be fixed."),
        ),
        hint="Collect codes in a set; message.get(\"role\") not in (...); isinstance(content, str) and content.strip(); sorted at the end.",
    ),
    Exercise(
        id="data-3",
        title="No customer on both sides",
        statement="Choose the rows to hold out so that each customer is on one side only.",
        solution=held_out_rows,
        cases=_customer_cases,
        points=4,
        objectives=(4,),
        mistakes=(
            Mistake(_rows_alone, "The last rows are held out one by one; a customer with several rows is then on both sides."),
            Mistake(_none_is_one, "All rows without a customer were taken for one; each of them belongs to itself."),
            Mistake(_first_customers, "Customers were taken from the front; asked for is the last one first."),
            Mistake(_share_of_customers, "The share is one of rows, not of customers."),
            Mistake(_cut_in_two, "The last customer was cut in two to meet the share to the row; take customers whole."),
            Mistake(_never_over, "You stop before the share is reached; customers are taken until at least the share is held out."),
            Mistake(_the_training_rows, "These are the rows that are left for training; asked for are the rows held out."),
        ),
        hint="Group row numbers by customer in a dictionary (a key of its own for each None), walk through the groups from the back.",
    ),
    Exercise(
        id="data-4",
        title="Has training seen the test set?",
        statement="Find the test texts that share a run of n words with any training text.",
        solution=leaks,
        cases=_leak_cases,
        points=4,
        objectives=(4,),
        mistakes=(
            Mistake(_case_of_words, "Case counts in your answer; a copy in capitals escapes."),
            Mistake(_only_test_lowered, "Case is taken off the test texts only; a training text in capitals is not found again."),
            Mistake(_words_at_blanks, "split(\" \") parts at single blanks only; words are what stands between any white space: split()."),
            Mistake(_last_run_missed, "The last run of each text is missed: a text of k words has k - n + 1 of them."),
            Mistake(_one_word_less, "Your runs are one word too short; innocent texts are accused."),
            Mistake(_one_word_more, "Your runs are one word too long; a leak of exactly n words escapes."),
            Mistake(_all_in_one, "The training texts were joined first, so runs reach from one into the next."),
            Mistake(_whole_texts, "Only whole texts are compared; a passage is enough."),
            Mistake(_the_training_texts, "These are numbers of training texts; asked for are test texts."),
            Mistake(_any_n_words, "n words in common anywhere are no run; they must stand in a row, in both."),
        ),
        hint="A set of tuples for each text; the union over training texts; then & with each test text's set.",
    ),
    Exercise(
        id="data-5",
        title="Card number or tracking number?",
        statement="Tell card numbers from other long numbers with Luhn's check.",
        solution=is_card_number,
        cases=_card_cases,
        points=3,
        objectives=(3,),
        mistakes=(
            Mistake(_from_the_left, "You double every second digit from the left; that is right for 14, 16 and 18 digits only. Count from the right."),
            Mistake(_check_digit_doubled, "The last digit is the check digit and is not doubled; begin with the one before it."),
            Mistake(_not_folded, "9 must be taken from a doubled digit over 9 (or its two digits added)."),
            Mistake(_nothing_doubled, "This is the plain sum of digits; without doubling two swapped digits would go unseen."),
            Mistake(_any_length, "Cards have 13 to 19 digits; shorter and longer numbers pass your check."),
            Mistake(_only_sixteen, "Not only 16 digits: American Express has 15, and cards range from 13 to 19."),
            Mistake(_separators_refused, "Blanks and hyphens are allowed; people write cards in groups."),
        ),
        hint="digits = [int(c) for c in text if c.isdigit()]; enumerate(reversed(digits)); double where place % 2.",
    ),
)  # fmt: skip
