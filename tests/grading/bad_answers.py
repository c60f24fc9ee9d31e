"""Answers that no grader should have to meet: each is an answer cell, and what must become of it.

`BAD` is of section 06: every learner's other questions are solved, and `api-7` is the cell here. `TORCH` is of section 02,
question `lora-2`. A cell that probes for something returns right values if it found nothing, so that full marks prove the
sandbox, and what it found otherwise, which the feedback then shows.
"""

HEAD = "# EXERCISE: api-7\nimport os, sys, time, signal\n"
RIGHT = "train_tokens * epochs * price / 1e6"
SIGNATURE = "def job_cost(train_tokens, validation_tokens, epochs, price):"


def call(body, returned=RIGHT, before=""):
    """A cell whose function does `body` and then returns the right value."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{HEAD}{before}\n{SIGNATURE}\n{lines}    return {returned}\n"


def cell(body):
    """A cell that does `body` when it is run, with a right function after it."""
    return f"{HEAD}{body}\n{SIGNATURE}\n    return {RIGHT}\n"


def probe(body):
    """A cell whose `body` appends to `found` what it should not have got."""
    return f"{HEAD}found = []\n{body}\n{SIGNATURE}\n    return str(found)[:300] if found else {RIGHT}\n"


# name: (cell, outcomes that are in order, points that are in order, what the message must say)
DIED, ERROR, WRONG, GOOD = ("died",), ("error",), ("wrong",), ("right",)
BAD = {
    # never done
    "loop": (call("while True: pass"), DIED, {0}, "timed out"),
    "loop-baseexception": (
        call("while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
        DIED,
        {0},
        "timed out",
    ),
    "loop-in-cell": (cell("while True: pass"), DIED, {0}, "cell timed out"),
    "loop-in-c": (call("sum(range(10**13))"), DIED, {0}, "timed out"),
    "loop-signals-ignored": (
        call(
            "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass"
        ),
        DIED,
        {0},
        "timed out",
    ),
    "loop-regex": (call("import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')"), DIED, {0}, "timed out"),
    "sleep": (call("time.sleep(3600)"), DIED, {0}, "timed out"),
    "sleep-a-little-each-call": (call("time.sleep(3.5)"), DIED, {0, 0.33, 0.4, 0.5, 0.67}, "timed out"),
    "lock": (call("import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()"), DIED, {0}, "timed out"),
    "loop-in-second-call": (
        call("calls.append(1)\nwhile len(calls) > 1: pass", before="calls = []"),
        DIED,
        {0.17, 0.2, 0.25, 0.33},  # of three to six calls
        "Call 2 of [3-6] timed out",
    ),
    "exit-handler": (cell("import atexit\natexit.register(lambda: time.sleep(3600))"), GOOD, {1}, ""),
    "pause": (call("signal.pause()"), DIED, {0}, "timed out"),
    "big-number": (call("10 ** 10 ** 9"), DIED, {0}, ""),
    # ends itself
    "exit": (call("os._exit(0)"), DIED, {0}, "exit status 0"),
    "exit-in-cell": (cell("os._exit(3)"), DIED, {0}, "cell ended its process .exit status 3"),
    "sys-exit": (call("sys.exit(1)"), ERROR, {0}, "SystemExit"),
    "keyboard-interrupt": (call("raise KeyboardInterrupt"), ERROR, {0}, "KeyboardInterrupt"),
    "generator-exit": (call("raise GeneratorExit"), ERROR, {0}, "GeneratorExit"),
    "kills-itself": (call("os.kill(os.getpid(), signal.SIGKILL)"), ("died", "right"), {0, 1}, ""),
    "kills-everybody": (call("os.kill(-1, signal.SIGKILL)"), ("died", "right", "error"), {0, 1}, ""),
    "kills-its-group": (call("os.killpg(0, signal.SIGKILL)"), ("died", "right", "error"), {0, 1}, ""),
    "kills-its-parent": (
        call("for pid in [os.getppid(), *range(2, 400)]:\n    try: os.kill(pid, 9)\n    except OSError: pass"),
        ("died", "right"),
        {0, 1},
        "",
    ),
    "segfault": (call("import ctypes\nctypes.string_at(0)"), DIED, {0}, "crashed .signal 11"),
    "abort": (call("os.abort()"), DIED, {0}, ""),
    "deep-recursion": (
        call("return job_cost(train_tokens, validation_tokens, epochs, price)"),
        ERROR,
        {0},
        "RecursionError",
    ),
    "deeper-recursion": (
        call(
            "sys.setrecursionlimit(10**9)\nclass C:\n    def __repr__(self): return repr(self)\nrepr(C())\n"
            "f = lambda: [f()]\nf()"
        ),
        ("died", "error"),
        {0},
        "",
    ),
    "closes-everything": (call("os.closerange(0, 1000)"), DIED, {0}, ""),
    # processes and threads
    "fork": (call("os.fork()"), ERROR, {0}, "PermissionError"),
    "fork-bomb": (
        call("while True:\n    try: os.fork()\n    except OSError: pass"),
        DIED,
        {0},
        "timed out",
    ),
    "fork-bomb-in-cell": (cell("while True:\n    try: os.fork()\n    except OSError: pass"), DIED, {0}, "timed out"),
    "background": (call("import subprocess\nsubprocess.Popen(['sleep', '600'])"), ERROR, {0}, "PermissionError"),
    "spawn": (call("os.posix_spawn('/usr/bin/sleep', ['sleep', '600'], {})"), ERROR, {0}, ""),
    "shell": (call("assert os.system('sleep 600') == 0"), ERROR, {0}, ""),
    "exec": (call("os.execv('/usr/bin/yes', ['yes'])"), ERROR, {0}, "PermissionError"),
    "multiprocessing": (call("import multiprocessing as m\nm.Pool(2).map(abs, [1])"), ERROR, {0}, ""),
    "daemon": (
        cell(
            "try:\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(600)\nexcept OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
    "threads-left": (
        call("import threading\nfor _ in range(5): threading.Thread(target=time.sleep, args=(600,)).start()"),
        GOOD,
        {1},
        "",
    ),
    "threads-busy": (
        call("import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()"),
        ("right", "died"),
        {0, 0.33, 0.67, 1},
        "",
    ),
    "thread-bomb": (
        call(
            "import threading\nthreading.stack_size(32768)\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()"
        ),
        ("died", "error"),
        {0},
        "",
    ),
    # memory and space
    "memory": (call("x = bytearray(10**11)"), ERROR, {0}, "MemoryError"),
    "memory-grows": (call("x = []\nwhile True: x.append(bytearray(10**8))"), ("error", "died"), {0}, ""),
    "memory-grows-in-cell": (cell("x = []\nwhile True: x.append(' ' * 10**8)"), ("error", "died"), {0}, ""),
    "disk": (call("with open('/tmp/x', 'wb') as f:\n    while True: f.write(bytes(10**6))"), ERROR, {0}, "OSError"),
    "many-files": (call("for i in range(10**6): open(f'/tmp/{i}', 'w').close()"), ERROR, {0}, "OSError"),
    "shared-memory": (
        call("for i in range(1000):\n    with open(f'/dev/shm/{i}', 'wb') as f: f.write(bytes(10**6))"),
        ERROR,
        {0},
        "OSError",
    ),
    "raises-limits": (
        call("import resource\nresource.setrlimit(resource.RLIMIT_AS, (10**12, 10**12))"),
        ERROR,
        {0},
        "not allowed",
    ),
    # output
    "flood": (call("while True: print('x' * 10**6)"), DIED, {0}, "timed out"),
    "prints-200-mb": (cell("for _ in range(200): print('x' * 10**6)"), GOOD, {1}, ""),
    "stderr-200-mb": (cell("for _ in range(200): print('x' * 10**6, file=sys.stderr)"), GOOD, {1}, ""),
    "warns": (cell("import warnings\nwarnings.warn('careful')"), GOOD, {1}, ""),
    "asks": (cell("try: input('name? ')\nexcept EOFError: pass"), GOOD, {1}, ""),
    "closes-stdout": (cell("sys.stdout.close(); os.close(1); os.close(2)"), GOOD, {1}, ""),
    # the line to the grader
    "forged-replies": (
        cell("""for n in range(3): os.write(3, b'{"n": %d, "ok": 1.0}\\n' % n)"""),
        ("died", "wrong"),
        {0},
        "",
    ),
    "forged-ready": (
        cell(
            """os.write(3, b'{"ready": {"notes": [], "error": "", "defined": true}}\\n' + b'{"n": 0, "ok": 1}\\n' * 9); os._exit(0)"""
        ),
        ("died", "wrong"),
        {0},
        "",
    ),
    "forged-points": (
        cell("""os.write(3, b'{"score": 99, "points": 99, "ready": {"defined": true, "score": 99}}\\n')"""),
        ("died", "wrong"),
        {0},
        "",
    ),
    "junk": (call("os.write(3, b'\\x00\\xffjunk\\n')"), DIED, {0}, "cannot read"),
    "junk-without-end": (call("os.write(3, b'junk')\ntime.sleep(600)"), DIED, {0}, "timed out"),
    "junk-flood": (call("while True: os.write(3, b'x' * 65536)"), DIED, {0}, "more than"),
    "newline-flood": (call("while True: os.write(3, b'\\n' * 65536)"), DIED, {0}, "cannot read"),
    "reply-no-object": (call("os.write(3, b'[1, 2]\\n')"), DIED, {0}, "cannot read"),
    "reply-null": (call("os.write(3, b'null\\n')"), DIED, {0}, "cannot read"),
    "reply-deep": (call("os.write(3, b'[' * 10**5 + b'\\n')"), DIED, {0}, "cannot read"),
    "reply-deep-value": (
        call("""os.write(3, b'{"n": 0, "ok": ' + b'[' * 20000 + b']' * 20000 + b'}\\n')"""),
        DIED,
        {0},
        "cannot read",
    ),
    "reply-huge-int": (call("""os.write(3, b'{"n": 0, "ok": ' + b'9' * 10**6 + b'}\\n')"""), ("died", "wrong"), {0}, ""),
    "reply-array-lies": (
        call("""os.write(3, b'{"n": 0, "ok": {"array": ["float64", [1000000000, 1000000000], "AAAA"]}}\\n')"""),
        DIED,
        {0},
        "cannot read",
    ),
    "reply-array-of-objects": (
        call("""os.write(3, b'{"n": 0, "ok": {"array": ["object", [1], "AAAAAAAAAAA="]}}\\n')"""),
        DIED,
        {0},
        "cannot read",
    ),
    "reply-unhashable": (
        call("""os.write(3, b'{"n": 0, "ok": {"set": [[1]]}}\\n')"""),
        DIED,
        {0},
        "cannot read",
    ),
    "reply-no-list": (call("""os.write(3, b'{"n": 0, "ok": {"tuple": 5}}\\n')"""), DIED, {0}, "cannot read"),
    "reply-both": (call("""os.write(3, b'{"n": 0, "ok": 1, "err": "x"}\\n')"""), DIED, {0}, "cannot read"),
    "every-descriptor": (
        call(
            'for n in range(256):\n    try: os.write(n, b\'{"ok": 1, "n": 0}\\n{"started": 1}\\n\')\n    except OSError: pass'
        ),
        ("died", "wrong", "partly"),
        {0, 0.67},
        "",
    ),
    # values
    "huge-value": (call("", returned="'x' * 50_000_000"), ERROR, {0}, "larger than"),
    "huge-list": (call("", returned="[0] * 10**7"), ERROR, {0}, "parts"),
    "huge-int": (call("", returned="10 ** 100_000"), ERROR, {0}, "65,536 bits"),
    "large-int": (call("", returned="10 ** 5_000"), WRONG, {0}, ""),
    "holds-itself": (call("x = []\nx.append(x)", returned="x"), ERROR, {0}, "RecursionError"),
    "endless-list": (
        call("", returned="E()", before="class E(list):\n    def __iter__(self):\n        while True: yield 0"),
        ("error", "died"),
        {0},
        "",
    ),
    "generator": (call("", returned=f"(x for x in [{RIGHT}])"), WRONG, {0}, "generator"),
    "generator-function": (call("yield 1"), WRONG, {0}, "generator"),
    "coroutine": (cell("").replace("def job_cost", "async def job_cost"), WRONG, {0}, "coroutine"),
    "function-value": (call("", returned="job_cost"), WRONG, {0}, "function"),
    "nan": (call("", returned="float('nan')"), WRONG, {0}, "nan"),
    "infinite": (call("", returned="float('inf')"), WRONG, {0}, "inf"),
    "text-value": (call("", returned=f"str({RIGHT})"), WRONG, {0}, ""),
    "equal-to-everything": (
        call("", returned="E()", before="class E:\n    def __eq__(self, other): return True\n    __hash__ = None"),
        WRONG,
        {0},
        "",
    ),
    "evil-float": (
        call("", returned="E()", before="class E:\n    def __float__(self): raise SystemExit"),
        ERROR,
        {0},
        "SystemExit",
    ),
    "evil-float-loops": (
        call("", returned="E()", before="class E:\n    def __float__(self):\n        while True: pass"),
        DIED,
        {0},
        "timed out",
    ),
    "evil-float-subclass": (
        call(
            "", returned="E(1)", before="class E(float):\n    def __float__(self): os._exit(9)\n    __eq__ = lambda *a: True"
        ),
        DIED,
        {0},
        "exit status 9",
    ),
    "evil-class": (
        call("", returned="E()", before="class E:\n    @property\n    def __class__(self): raise KeyError"),
        ERROR,
        {0},
        "",
    ),
    "evil-repr": (
        call("", returned="E()", before="class E:\n    def __repr__(self): os._exit(9)\n    __str__ = __repr__"),
        WRONG,
        {0},
        "a E",
    ),
    "evil-error": (
        call("raise E", before="class E(Exception):\n    def __str__(self): raise SystemExit"),
        ERROR,
        {0},
        "cannot be shown",
    ),
    "long-error": (call("raise ValueError('x' * 10**7)"), ERROR, {0}, "ValueError: xxx"),
    "html-error": (call("raise ValueError('<script>alert(1)</script>')"), ERROR, {0}, "<script>"),
    "surrogate-error": (call("raise ValueError('\\udc80\\x00\\x1b[31m')"), ERROR, {0}, "ValueError"),
    "html-type": (call("", returned="type('<img src=x onerror=alert(1)>', (), {})()"), WRONG, {0}, ""),
    "not-a-function": (HEAD + "job_cost = 5\n", ERROR, {0}, "defines no function job_cost"),
    "other-name": (HEAD + "def cost(*a): return 1\n", ERROR, {0}, "defines no function job_cost"),
    "other-arguments": (HEAD + "def job_cost(): return 1\n", ERROR, {0}, "TypeError"),
    "class-instead": (HEAD + "class job_cost:\n    def __init__(self, *a): pass\n", WRONG, {0}, "job_cost"),
    # the cell
    "empty": ("# EXERCISE: api-7\n", ERROR, {0}, "defines no function"),
    "syntax-error": (call("return (("), ERROR, {0}, "SyntaxError.*line 5"),
    "raises-before": (HEAD + "1 / 0\n" + cell(""), GOOD, {1}, "line 3 was left out, as it raised ZeroDivisionError"),
    "raises-where-needed": (
        call("", returned=f"{RIGHT} + ZERO", before="ZERO = int('nothing')"),
        ERROR,
        {0},
        "The cell raised ValueError",
    ),
    # what stands below the answer is an experiment, and is not run
    "raises-after": (cell("") + "1 / 0\n", GOOD, {1}, "All . cases right.$"),
    "exits-after": (cell("") + "sys.exit()\n", GOOD, {1}, "All . cases right.$"),
    "loops-after": (cell("") + "while True: pass\n", GOOD, {1}, "All . cases right.$"),
    "asserts-after": (cell("") + "assert job_cost(1, 1, 1, 1) == 5, 'hm'\n", GOOD, {1}, "All . cases right.$"),
    "raises-in-changing-itself": (
        cell("") + "job_cost.count = 1\njob_cost = 1 / 0\n",
        GOOD,
        {1},
        "After job_cost was defined the cell raised ZeroDivisionError",
    ),
    "magics": (
        "%%time\n" + cell("%matplotlib inline\n!pip install evil\nos.getcwd?\nx = !ls"),
        GOOD,
        {1},
        "5 line.s. for IPython",
    ),
    "await": (cell("await something()"), GOOD, {1}, ""),  # as in a notebook, where something may be defined
    "uses-no-cell's-helper": (call("", returned="helper(train_tokens)"), ERROR, {0}, "no cell of the notebook defines it"),
    "needs-a-package": (call("import pandas_of_mine"), ERROR, {0}, "standard library and numpy, torch, .*no other library"),
    "imports-what-it-does-not-use": (cell("import pandas_of_mine"), GOOD, {1}, "line 3 was left out.*pandas_of_mine"),
    "nul-byte": (cell("x = '\\0'") + "\0", ERROR, {0}, ""),
    "nested-brackets": (HEAD + "x = " + "[" * 5000 + "]" * 5000 + "\n", ("error", "died"), {0}, ""),
    "long-expression": (HEAD + "x = " + "+".join("1" * 1 for _ in range(100_000)) + "\n", ("error", "died"), {0}, ""),
    "decompression": (cell("import zlib\nx = zlib.decompress(zlib.compress(bytes(10**8)))"), GOOD, {1}, ""),
    "coding-cookie": ("# -*- coding: rot13 -*-\n" + cell(""), ("right", "error"), {0, 1}, ""),
    "main-guard": (cell("if __name__ != '__main__': raise SystemExit"), GOOD, {1}, ""),
    # in the grader's way
    "replaces-check": (call("", returned="0", before="def check(*a): return 99\nscore = 99"), WRONG, {0}, ""),
    "input-transformer": (
        call(
            "",
            returned="0",
            before="get_ipython().input_transformers_cleanup.append(lambda lines: ['score = 99\\n'])",
        ),
        WRONG,
        {0},
        "get_ipython",
    ),
    "imports-the-checker": (
        call("", returned="0", before="import course_utils.exercises.checking as c\nc.judge = lambda *a: (99, '', None)"),
        WRONG,
        {0},
        "course_utils",
    ),
    "patches-builtins": (
        call(
            "",
            returned="0",
            before="import builtins\nfor n in ('len', 'isinstance', 'sum', 'all', 'float'):\n    setattr(builtins, n, lambda *a: True)",
        ),
        ("wrong", "error", "died"),
        {0},
        "",
    ),
    "patches-json": (
        call("", returned="0", before="import json\njson.dumps = lambda *a: '{\"score\": 99}'"),
        WRONG,
        {0},
        "",
    ),
    "patches-coding": (
        call("", returned="0", before="coding = sys.modules['coding']\ncoding.encode = lambda *a: {'array': 5}"),
        ("wrong", "died"),
        {0},
        "",
    ),
    "empties-modules": (cell("sys.modules.clear()"), ("right", "error", "died"), {0, 1}, ""),
    "changes-its-frame": (
        call("frame = sys._getframe(1)\nframe.f_locals['call']['n'] = 99"),
        ("died", "right"),  # which one depends on the version of Python
        {0, 1},
        "",
    ),
    "traces": (call("sys.settrace(lambda *a: os._exit(4))\n(lambda: 0)()"), DIED, {0}, "exit status 4"),
    "knows-no-solution": (
        probe(
            "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ in ('Exercise', 'CaseSet', 'Mistake'): found.append(o)\n"
            "found += [m for m in sys.modules if 'course' in m or 'exercise' in m]"
        ),
        GOOD,
        {1},
        "",
    ),
    # out of the sandbox
    "environment": (
        probe(
            "found += [k for k in os.environ if k not in ('PATH', 'HOME', 'LANG', 'PYTHONHASHSEED', 'COURSE_GRADING', 'PWD', 'LC_CTYPE') and 'THREADS' not in k]"
        ),
        GOOD,
        {1},
        "",
    ),
    "reads-files": (
        probe(
            "for p in ('/etc/passwd', '/etc/shadow', '/etc/hosts', '/home', '/var', '/sys', '/run', '/proc/1/environ', '/proc/self'):\n"
            "    if os.path.exists(p): found.append(p)"
        ),
        GOOD,
        {1},
        "",
    ),
    "walks-for-solutions": (
        probe(
            "for folder, folders, names in os.walk('/'):\n    if folder.startswith(('/proc', '/dev')): continue\n"
            # of other packages there are more files than a cold disk lists in the time of an answer
            "    if folder.endswith('-packages'): folders[:] = [f for f in folders if 'course' in f]\n"
            "    course = 'course_utils' in folder or '/exercises' in folder or 'notebooks' in folder and '/tests' not in folder\n"
            "    found += [folder + '/' + n for n in names if course and n.endswith(('.py', '.pyc', '.ipynb'))]"
        ),
        GOOD,
        {1},
        "",
    ),
    "sees-processes": (probe("found += [p for p in os.listdir('/proc') if p.isdigit()]"), GOOD, {1}, ""),
    "network": (
        probe(
            "import socket\nfor host in ('127.0.0.1', '10.0.0.1', '8.8.8.8'):\n    for port in (53, 80, PORT):\n"
            "        try:\n            socket.create_connection((host, port), 0.2); found.append((host, port))\n        except OSError: pass\n"
            "try: found.append(socket.getaddrinfo('example.org', 443))\nexcept OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
    "abstract-socket": (
        probe(
            "import socket\ntry:\n    s = socket.socket(socket.AF_UNIX)\n    s.connect('\\0course-grading-test'); found.append('connected')\nexcept OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
    "privileges": (
        probe(
            "import ctypes\nlibc = ctypes.CDLL(None)\n"
            "for name, args in {'unshare': (0x10000000,), 'setuid': (0,), 'setgid': (0,), 'umount2': (b'/proc', 0), 'chroot': (b'/tmp',),"
            " 'mount': (b'none', b'/tmp', b'tmpfs', 0, None), 'ptrace': (16, 2, 0, 0), 'sethostname': (b'x', 1)}.items():\n"
            "    if getattr(libc, name)(*args) == 0: found.append(name)\n"
            "for number in (101, 155, 308, 321, 425, 435):\n"
            "    if platform_is_x86 and libc.syscall(number, 0, 0, 0, 0) >= 0: found.append(number)".replace(
                "platform_is_x86", "os.uname().machine == 'x86_64'"
            )
        ),
        GOOD,
        {1},
        "",
    ),
    "signals-the-server": (
        probe("for p in range(2, 200):\n    try:\n        os.kill(p, 0); found.append(p)\n    except OSError: pass"),
        GOOD,
        {1},
        "",
    ),
    "writes-system": (
        probe(
            "for p in ('/', '/usr', '/usr/lib', '/grader', '/grader/child.py', '/dev', '/etc', '/root', '/bin', sys.prefix):\n"
            "    try:\n        open(p if p.endswith('.py') else p + '/x', 'a').close(); found.append(p)\n    except OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
    "reads-the-course": (probe("found += [p for p in CANARIES if os.path.exists(p)]"), GOOD, {1}, ""),
    "writes-the-course": (
        cell(
            "for p in CANARIES:\n    try:\n        os.makedirs(os.path.dirname(p), exist_ok=True)\n"
            "        for name in (p, os.path.dirname(p) + '/evil'): open(name, 'w').close()\n    except OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
    "climbs": (
        probe(
            "for p in ('../' * n + 'gradebook.db' for n in range(1, 9)):\n    try:\n        open(p, 'w').close(); found.append(p)\n    except OSError: pass"
        ),
        GOOD,
        {1},
        "",
    ),
}
LEAVES = probe(
    "for folder, folders, names in os.walk('/'):\n"
    "    if folder.startswith(('/usr', '/proc')) or 'site-packages' in folder or folder.count('/') > 3:\n"
    "        folders.clear()  # all of a disk takes longer than an answer may\n        continue\n"
    "    if 'left' in names: found.append(folder)\n"
    "    try: open(folder + '/left', 'w').close()\n    except OSError: pass\n"
    "if not os.path.exists('/tmp/left'): found.append('this probe writes nowhere')"
)
BAD |= {
    # memory that no limit of its own counts; 29 is shmget on x86_64, which Python does not name
    "shared-memory": (
        probe(
            "import ctypes\nif os.uname().machine == 'x86_64':\n"
            "    n = ctypes.CDLL(None).syscall(29, 0, 1 << 20, 0o1600)\n    if n != -1: found.append(n)"
        ),
        GOOD,
        {1},
        "",
    ),
    "memory-file": (call("os.memfd_create('a')"), ERROR, {0}, "PermissionError"),
    "writes-into-the-server": (call("open('/proc/1/mem', 'r+b')"), ERROR, {0}, "Error"),
    "interrupts-the-server": (
        call("os.kill(1, signal.SIGINT)\ntime.sleep(0.2)"),  # in bubblewrap that is itself, in a container the server
        ("right", "error"),
        {0, 1},
        "KeyboardInterrupt|cases right",
    ),
}
# What would change a node that all the machine shares, tell of the machine, or carry a word to another answer. The modes, owners
# and times are those that the node has, so that the probe harms nobody where it succeeds.
COVERT = probe(
    """import ctypes, fcntl, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def tries(name, function, *arguments):
    try:
        function(*arguments)
        found.append(name)
    except (OSError, AttributeError): pass
def asks(name, number, *arguments):
    if os.uname().machine == 'x86_64' and libc.syscall(number, *arguments) >= 0: found.append(name)
shared = os.__file__
here, null = os.open(shared, os.O_RDONLY), os.open('/dev/null', os.O_RDWR)
lock = struct.pack('hhqqi', fcntl.F_RDLCK, 0, 7, 1, 0)
for node in ('/dev/null', '/dev/zero', '/dev/urandom', '/dev/full', '/dev/tty', '/dev/shm', '/dev', shared):
    if not os.path.exists(node): continue
    state = os.stat(node)
    tries('chown ' + node, os.chown, node, -1, -1)
    # these seem to succeed, and do nothing
    os.chmod(node, state.st_mode & 0o7777 ^ 0o111)
    os.utime(node, ns=(state.st_atime_ns + 10**9, state.st_mtime_ns + 10**9))
    if (os.stat(node).st_mode, os.stat(node).st_mtime_ns) != (state.st_mode, state.st_mtime_ns): found.append('changed ' + node)
    tries('setxattr ' + node, os.setxattr, node, 'user.x', b'1')
for name, fd in (('file', here), ('null', null)):
    try:  # nor is a lock there that somebody else could see
        for one in (fd, os.open('/dev/null' if fd == null else shared, os.O_RDONLY)):
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.fcntl(one, getattr(fcntl, 'F_OFD_SETLK', 37), lock)
    except OSError: found.append('lock ' + name)
    for command in ('F_GETLK', 'F_OFD_GETLK'):
        tries(command + name, fcntl.fcntl, fd, getattr(fcntl, command, 5), lock)
    tries('lease ' + name, fcntl.fcntl, fd, 1024, fcntl.F_RDLCK)
    tries('notify ' + name, fcntl.fcntl, fd, 1026, 1)
for family in range(1, 46):
    for kind in (1, 2, 3, 5):
        tries(f'socket {family} {kind}', lambda: socket.socket(family, kind).close())
        if family != socket.AF_UNIX:  # whose two ends lead nowhere else: asyncio wakes its loop by them
            tries(f'socketpair {family} {kind}', lambda: socket.socketpair(family, kind))
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
address = libc.mmap(None, 4096, 1, 1, here, 0)
vector = ctypes.create_string_buffer(8)
word = ctypes.c_int.from_address(address).value
second = ctypes.create_string_buffer(struct.pack('qq', 0, 1000))
if os.uname().machine == 'x86_64':
    # waits till its time is over: another answer could wake it
    if libc.syscall(202, ctypes.c_void_p(address), 0, word, second) < 0 and ctypes.get_errno() == 110: found.append('futex wait')
asks('futex wake', 202, ctypes.c_void_p(address), 1, 1)
asks('mincore', 27, ctypes.c_void_p(address), 4096, vector)
asks('pageout', 28, ctypes.c_void_p(address), 4096, 21)
asks('fadvise', 221, here, 0, 4096, 4)
asks('readahead', 187, here, 0, 4096)
asks('preadv2', 327, here, 0, 0, 0, 0, 8)
asks('memfd_secret', 447, 0)
asks('mq_open', 240, b'covert', os.O_CREAT | os.O_RDWR, 0o600, None)
asks('msgget', 68, 7, 0o1600)
asks('semget', 64, 7, 1, 0o1600)
asks('shmget', 29, 7, 4096, 0o1600)
asks('inotify', 294, 0)
asks('fanotify', 300, 0, 0)
asks('io_uring', 425, 4, ctypes.create_string_buffer(120))
asks('io_setup', 206, 1, ctypes.create_string_buffer(8))
asks('userfaultfd', 323, 1)
asks('bpf', 321, 0, ctypes.create_string_buffer(72), 72)
asks('perf', 298, ctypes.create_string_buffer(struct.pack('IIQ', 1, 112, 0), 112), 0, -1, -1, 0)
asks('add_key', 248, b'user', b'covert', b'x', 1, -3)
asks('request_key', 249, b'user', b'covert', None, -3)
asks('keyctl', 250, 0, -3, 1)
asks('sysinfo', 99, ctypes.create_string_buffer(200))
asks('statfs', 137, b'/usr', ctypes.create_string_buffer(200))
asks('pipe', 293, ctypes.create_string_buffer(8), 0)
asks('timer', 222, 1, None, ctypes.create_string_buffer(8))
asks('sync', 162)
asks('eventfd', 290, 0, 0)
asks('pidfd', 434, os.getpid(), 0)
asks('kcmp', 312, os.getpid(), os.getpid(), 0, 0, 0)
asks('process_vm_readv', 310, os.getpid(), None, 0, None, 0, 0)
asks('setpriority', 141, 0, 0, 1)
asks('sched_setaffinity', 203, 0, 8, ctypes.create_string_buffer(bytes([255] * 8)))
asks('landlock', 444, None, 0, 1)
asks('open_by_handle', 304, here, vector, 0)
asks('name_to_handle', 303, -100, b'/usr', ctypes.create_string_buffer(struct.pack('ii', 120, 0), 128), vector, 0)
asks('personality', 135, 0xffffffff)
asks('mlock', 149, ctypes.c_void_p(address), 4096)
asks('move_pages', 279, 0, 0, None, None, None, 0)
asks('vmsplice', 278, null, None, 0, 0)
asks('mknod', 133, b'/tmp/pipe', 0o10600, 0)
asks('a call that is not yet there', 600)
tries('pseudo-terminal', os.open, '/dev/ptmx', os.O_RDWR)
""",
)
BAD |= {
    "covert-lines": (COVERT, GOOD, {1}, ""),
    "waits-for-a-thread": (  # whose end the kernel tells by a word that other processes could wait for too
        cell(
            "import ctypes, threading\nlibc, thread = ctypes.CDLL(None), ctypes.c_ulong()\n"
            "slow = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: time.sleep(0.2))\n"
            "assert libc.pthread_create(ctypes.byref(thread), None, slow, None) == 0\n"
            "assert libc.pthread_join(thread, None) == 0\n"
            "other = threading.Thread(target=time.sleep, args=(0.1,)); other.start(); other.join()\n"
            "from concurrent.futures import ThreadPoolExecutor\nassert list(ThreadPoolExecutor(2).map(abs, [-1, 2])) == [1, 2]"
        ),
        GOOD,
        {1},
        "right",
    ),
}
BAD |= {
    # values that lie about themselves
    "set-of-one-hash-forged": (
        cell(
            """text = ','.join(str(n * (2**61 - 1)) for n in range(80_000))
os.write(3, ('{"ready": {"defined": true}}\\n{"n": 0, "ok": {"set": [%s]}}\\n' % text).encode())"""
        ),
        DIED,
        {0},
        "cannot read",
    ),
    "dict-of-one-hash": (call("", returned="{(n * (2**61 - 1), 'x'): 1 for n in range(1_000)}"), DIED, {0}, "cannot read"),
    "shape-of-huge-sizes": (
        call(
            """os.write(3, ('{"n": 0, "ok": {"array": ["int8", [%s], ""]}}\\n' % ','.join(['9' * 4000] * 450)).encode())""",
        ),
        DIED,
        {0},
        "cannot read",
    ),
    "int-with-a-false-length": (
        call("", returned="E(10 ** 6000)", before="class E(int):\n    def bit_length(self): return 1"),
        ERROR,
        {0},
        "4300",
    ),
    "dict-with-false-items": (
        call("", returned="E(a=1)", before="class E(dict):\n    def items(self): return [(1, 2, 3)]"),
        ERROR,
        {0},
        "unpack",
    ),
    "text-with-a-false-str": (
        call("", returned="E('x')", before="class E(str):\n    def __str__(self): os._exit(7)\n    __repr__ = __str__"),
        WRONG,
        {0},
        "",
    ),
    "array-that-holds-itself": (
        call("import numpy as np\nx = np.array([None], dtype=object)\nx[0] = x", returned="x"),
        ("error", "died"),
        {0},
        "",
    ),
    "array-of-records": (
        call("import numpy as np", returned="np.zeros(3, dtype=[('a', 'i4'), ('b', 'f8')])"),
        ("error", "wrong"),
        {0},
        "",
    ),
    "value-that-ends-badly": (
        call("", returned="E()", before="class E:\n    def __del__(self): os._exit(6)"),
        ("died", "wrong"),
        {0},
        "",
    ),
    "keys-that-are-not-equal-to-themselves": (
        call("", returned="{float('nan'): n for n in range(100)}"),
        ("died", "wrong"),
        {0},
        "",
    ),
    # the process
    "small-ints-changed": (
        # the objects of 1 and of 2 change places in what every module of this process takes for 1
        call(
            "import ctypes\nat = id(2) + ctypes.sizeof(ctypes.c_ssize_t) * 3\nctypes.c_uint32.from_address(at).value = 7",
        ),
        ("died", "error", "wrong", "right", "partly"),
        {0, 0.2, 0.25, 0.33, 0.4, 0.5, 0.6, 0.67, 0.75, 0.8, 1},  # three to five cases
        "",
    ),
    "replaces-the-line": (call("null = os.open('/dev/null', os.O_RDWR)\nos.dup2(null, 3)"), DIED, {0}, ""),
    "stops-itself": (call("os.kill(os.getpid(), signal.SIGSTOP)"), ("right", "died"), {0, 1}, ""),
    "alarm-without-a-handler": (
        call("signal.signal(signal.SIGALRM, signal.SIG_DFL)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.2)"),
        ("died", "right"),  # the first process of a name space gets no signal without a handler
        {0, 1},
        "",
    ),
    "audit-hook": (
        cell("def no(*event): raise ValueError('no')\nsys.addaudithook(no)"),
        ("right", "error", "died"),
        {0, 1},
        "",
    ),
    "all-descriptors-open": (
        cell("kept = []\ntry:\n    while True: kept.append(open('/dev/null'))\nexcept OSError: pass"),
        GOOD,
        {1},
        "",
    ),
    "scratch-removed": (cell("import shutil\nshutil.rmtree('/tmp', ignore_errors=True)"), GOOD, {1}, ""),
    "scratch-full": (
        cell("try:\n    with open('x', 'wb') as f:\n        while True: f.write(bytes(10**6))\nexcept OSError: pass"),
        GOOD,
        {1},
        "",
    ),
    "standard-streams-replaced": (
        cell("class E:\n    def write(self, *a): raise SystemExit\n    flush = write\nsys.stdout = sys.stderr = E()"),
        GOOD,
        {1},
        "",
    ),
    "sparse-file-of-a-terabyte": (
        call("os.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 10**12)"),
        ERROR,
        {0},
        "Error",
    ),
    "shared-map-of-a-terabyte": (call("import mmap\nmmap.mmap(-1, 10**12)"), ERROR, {0}, "Error"),
    # calls by other doors than those that the filter's numbers name
    "x32-call": (
        cell("import ctypes\nif os.uname().machine == 'x86_64': ctypes.CDLL(None).syscall(0x40000000 + 39)"),
        ("died", "right"),
        {0, 1},
        "signal 31|right",
    ),
    "32-bit-call": (
        cell(
            "import ctypes, mmap\nif os.uname().machine == 'x86_64':\n"
            "    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
            "    page.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, getpid; int 0x80; ret\n"
            "    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
        ),
        ("died", "right"),
        {0, 1},
        "signal|right",
    ),
    # the cell's text
    "minus-signs": (HEAD + "x = " + "-" * 200_000 + "1\n", ("error", "died"), {0}, ""),
    "literal-of-a-million-digits": (HEAD + "x = " + "9" * 1_000_000 + "\n", ERROR, {0}, "SyntaxError"),
    "wide-letters": (cell("").replace("def job_cost", "def \uff4a\uff4f\uff42_cost"), GOOD, {1}, ""),
    "text-direction-in-an-error": (
        call("raise ValueError('\\u202etxt\\u2066\\x9b31m')"),
        ERROR,
        {0},
        "ValueError: \ufffdtxt",
    ),
    "formula-in-an-error": (call("raise ValueError(';=cmd|x;＝1+1')"), ERROR, {0}, "cmd"),
}
BAD |= {f"leaves-files-{number}": (LEAVES, GOOD, {1}, "") for number in (1, 2, 3)}

FORWARD = "def lora_forward(x, W, A, B, alpha):"
TORCH_RIGHT = "x @ W.T + (alpha / A.shape[0]) * (x @ A.T) @ B.T"


def torch_cell(body="", returned=TORCH_RIGHT, before=""):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"# EXERCISE: lora-2\nimport torch, os\nimport numpy as np\n{before}\n{FORWARD}\n{lines}    return {returned}\n"


TORCH = {
    "patches-allclose": (
        torch_cell(returned="W", before="np.allclose = torch.allclose = torch.equal = lambda *a, **k: True"),
        WRONG,
        {0},
        "",
    ),
    "patches-tensor": (
        torch_cell(
            returned="x", before="torch.Tensor.__eq__ = lambda *a: True\ntorch.Tensor.numpy = lambda self: np.zeros(3)"
        ),
        WRONG,
        {0},
        "",
    ),
    "patches-matmul": (torch_cell(before="torch.Tensor.__matmul__ = lambda a, b: a"), ("wrong", "error"), {0}, ""),
    "tensor-subclass": (
        torch_cell(returned="E(x)", before="class E(torch.Tensor):\n    def detach(self): os._exit(5)"),
        DIED,
        {0},
        "exit status 5",
    ),
    "torch-memory": (torch_cell("torch.ones(10**11)"), ERROR, {0}, "RuntimeError"),
    "torch-threads": (
        torch_cell("torch.set_num_threads(64)\ntorch.ones(2000, 2000) @ torch.ones(2000, 2000)"),
        ("right", "died"),
        {0, 4},
        "",
    ),
    "torch-huge-value": (torch_cell(returned="torch.zeros(2000, 2000)"), ERROR, {0}, "larger than"),
    "torch-meta": (torch_cell(returned="x.to('meta')"), WRONG, {0}, "got a Tensor without numbers"),
    "torch-sparse": (torch_cell(returned="x.to_sparse()"), ("error", "wrong"), {0}, ""),
    "torch-grad": (
        torch_cell(before="torch.set_grad_enabled(True)", returned=f"({TORCH_RIGHT}).requires_grad_()"),
        GOOD,
        {4},
        "",
    ),
    "torch-numpy": (torch_cell(returned=f"({TORCH_RIGHT}).numpy()"), GOOD, {4}, ""),
    "torch-list": (torch_cell(returned=f"({TORCH_RIGHT}).tolist()"), GOOD, {4}, ""),
    "torch-bfloat16": (torch_cell(returned=f"({TORCH_RIGHT}).bfloat16()"), WRONG, {0}, ""),
    "torch-complex": (torch_cell(returned=f"({TORCH_RIGHT}).to(torch.complex64)"), WRONG, {0}, ""),
    "torch-changes-inputs": (
        torch_cell("result = " + TORCH_RIGHT + "\nW.zero_(); x.zero_()", returned="result"),
        GOOD,
        {4},
        "",
    ),
    "torch-one-wrong-shape": (torch_cell(returned=f"({TORCH_RIGHT}).T"), WRONG, {0}, "shape"),
    "torch-no-import": (torch_cell().replace("import torch, os\n", ""), GOOD, {4}, ""),
    "object-array": (torch_cell(returned="np.array([object()])"), WRONG, {0}, ""),
    "torch-exit": (torch_cell("os._exit(0)"), DIED, {0}, "exit status 0"),
    "torch-seed": (torch_cell(returned="torch.rand(3, 3)"), WRONG, {0}, ""),
    "unpickles": (
        torch_cell(returned="E()", before="class E:\n    def __reduce__(self): return (os.system, ('touch /tmp/pickled',))"),
        WRONG,
        {0},
        "",
    ),
}
