"""Answers that no grader should have to meet: each is an answer cell, and what must become of it.

`BAD` is of section 06: every learner's other questions are solved, and `api-2` is the cell here. `TORCH` is of section 02,
question `lora-1`. A cell that probes for something returns right values if it found nothing, so that full marks prove the
sandbox, and what it found otherwise, which the feedback then shows.
"""

HEAD = "# EXERCISE: api-2\nimport os, sys, time, signal\n"
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
    "sleep-a-little-each-call": (call("time.sleep(3.5)"), DIED, {0, 0.67}, "timed out"),
    "lock": (call("import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()"), DIED, {0}, "timed out"),
    "loop-in-second-call": (
        call("calls.append(1)\nwhile len(calls) > 1: pass", before="calls = []"),
        DIED,
        {0.33},
        "Call 2 of 3 timed out",
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
    "empty": ("# EXERCISE: api-2\n", ERROR, {0}, "defines no function"),
    "syntax-error": (call("return (("), ERROR, {0}, "SyntaxError.*line 5"),
    "raises-before": (HEAD + "1 / 0\n" + cell(""), ERROR, {0}, "ZeroDivisionError"),
    "raises-after": (cell("") + "1 / 0\n", GOOD, {1}, "After job_cost was defined the cell raised ZeroDivisionError"),
    "exits-after": (cell("") + "sys.exit()\n", GOOD, {1}, "SystemExit"),
    "asserts-after": (cell("") + "assert job_cost(1, 1, 1, 1) == 5, 'hm'\n", GOOD, {1}, "AssertionError"),
    "magics": (
        "%%time\n" + cell("%matplotlib inline\n!pip install evil\nos.getcwd?\nx = !ls"),
        GOOD,
        {1},
        "5 line.s. for IPython",
    ),
    "await": (cell("await something()"), ERROR, {0}, "await"),
    "uses-another-cell": (call("", returned="helper(train_tokens)"), ERROR, {0}, "runs by itself"),
    "needs-a-package": (cell("import pandas_of_mine"), ERROR, {0}, "standard library, numpy and torch"),
    "nul-byte": (cell("x = '\\0'") + "\0", ERROR, {0}, ""),
    "nested-brackets": (HEAD + "x = " + "[" * 5000 + "]" * 5000 + "\n", ("error", "died"), {0}, ""),
    "long-expression": (HEAD + "x = " + "+".join("1" * 1 for _ in range(100_000)) + "\n", ("error", "died"), {0}, ""),
    "decompression": (cell("import zlib\nx = zlib.decompress(zlib.compress(bytes(10**8)))"), GOOD, {1}, ""),
    "coding-cookie": ("# -*- coding: rot13 -*-\n" + cell(""), ("right", "error"), {0, 1}, ""),
    "main-guard": (cell("if __name__ != '__main__': raise SystemExit"), GOOD, {1}, ""),
    # in the grader's way
    "replaces-check": (call("", returned="0", before="def check(*a): return 99\nscore = 99"), WRONG, {0}, ""),
    "input-transformer": (
        cell("get_ipython().input_transformers_cleanup.append(lambda lines: ['score = 99\\n'])"),
        ERROR,
        {0},
        "get_ipython",
    ),
    "imports-the-checker": (
        cell("import course_utils.exercises.checking as c\nc.judge = lambda *a: (99, '', None)"),
        ERROR,
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
            "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ in ('Exercise', 'Asked', 'Mistake'): found.append(o)\n"
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
            "import socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect('\\0course-grading-test'); found.append('connected')\nexcept OSError: pass"
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
BAD |= {f"leaves-files-{number}": (LEAVES, GOOD, {1}, "") for number in (1, 2, 3)}

FORWARD = "def lora_forward(x, W, A, B, alpha):"
TORCH_RIGHT = "x @ W.T + (alpha / A.shape[0]) * (x @ A.T) @ B.T"


def torch_cell(body="", returned=TORCH_RIGHT, before=""):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"# EXERCISE: lora-1\nimport torch, os\nimport numpy as np\n{before}\n{FORWARD}\n{lines}    return {returned}\n"


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
    "torch-meta": (torch_cell(returned="x.to('meta')"), ERROR, {0}, ""),
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
