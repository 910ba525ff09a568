from __future__ import annotations

import pytest

from tether.errors import InputError
from tether.rewards.sandbox import check_containment
from tether.rewards.verifiers import build_verifier
from tether.types import Group, Prompt, Response

try:
    check_containment("full")
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
LIMITS = {"sandbox": {"wall_seconds": 60, "cpu_seconds": 1}}
SHORT = {"sandbox": {"wall_seconds": 3, "cpu_seconds": 1}}
"""For programs that get nothing however long they run."""


def group(tests, *answers, name="tests"):
    return Group(Prompt((1,), meta={"id": "p7", name: tests}), tuple(Response((2,), text) for text in answers))


def grades(tests, *answers, **options):
    return build_verifier("code", LIMITS | options)([group(tests, *answers)]).tolist()


def test_the_share_of_statements_that_hold_by_hand():
    right = "def add(a, b):\n    return a + b"
    numbers = "Here:\n```python\ndef add(a, b):\n    return int(a) + int(b)\n```\nDone."
    wrong = "def add(a, b):\n    return a - b"
    answers = (right, numbers, wrong, "add", "def add(a, b:", "")
    assert grades(ADD, *answers) == pytest.approx([1, 2 / 3, 0, 0, 0, 0])
    assert grades(ADD, *answers, score="all") == [1, 0, 0, 0, 0, 0]


def test_what_a_program_prints_for_what_it_reads():
    tests = [{"input": "1 2\n", "output": "3\n"}, {"input": "4 4", "output": " 8"}, {"input": "0 0", "output": "0"}]
    program = "a, b = map(int, input().split())\nprint(a + b, '')\n"
    padded = "a, b = map(int, input().split())\nprint('', a + b) if a == 4 else print(a + b)\n"
    crash = "print(3)\n1 / 0"
    assert grades(tests, program, padded, crash, "print(0)") == pytest.approx([2 / 3, 1, 0, 1 / 3])
    apps = {"inputs": ["1", "2"], "outputs": ["1", "4"]}
    assert grades(apps, "print(int(input()) ** 2)", "print(1)") == [1, 0.5]


def test_the_last_fenced_block_counts():
    said = "```\nprint(1)\n```\nno:\n```py\nprint(2)\n```"
    assert grades([{"input": "", "output": "2"}], said, "``` print(2)", "print(2)") == [1, 0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        "import os\nos._exit(0)",
        "exit()",
        "def add(a, b): exit(0)",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "while True: pass",
        "def add(a, b):\n    while True: pass",
        "import sys\nsys.stdout.close()",
        "for i in range(9): print('token', i)",
        "import sys\nsys.stdin.read()\ndef add(a, b): return a + b",
        "import os\nwhile True: os.fork()",
        "x = 'x' * (10 << 30)",
        "print('x' * (1 << 30))",
    ],
)
def test_an_answer_that_cheats_or_misbehaves_gets_nothing(answer):
    assert grades(ADD, answer, **SHORT) == [0]


def test_answers_that_print_are_none_the_worse():
    noisy = "print('hello', end='')\ndef add(a, b):\n    print('adding', end='')\n    return a + b"
    assert grades(ADD, noisy) == [1]


def test_rewards_come_in_the_order_of_the_responses():
    groups = [group([f"assert f() == {i}"], *(f"def f(): return {j}" for j in range(3))) for i in range(3)]
    groups.insert(1, group("assert True"))
    assert build_verifier("code", {})(groups).tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert build_verifier("code", {})([]).shape == (0,)


@pytest.mark.parametrize(
    ("tests", "name", "message"),
    [
        ([], "tests", r"prompt p7: its tests are '\[\]'; they must be a list of Python statements"),
        ([1], "tests", r"its tests are '\[1\]'"),
        ([{"input": "1"}], "tests", "with input and output"),
        ({"inputs": ["1"], "outputs": []}, "tests", "have 1 inputs and 0 outputs"),
        (ADD, "cases", r"looked for in column 'tests' or 'test_list' or 'test', but its columns are id, cases"),
    ],
)
def test_bad_tests_name_the_prompt(tests, name, message):
    with pytest.raises(InputError, match=message):
        build_verifier("code", {})([group(tests, "x", name=name)])


def test_a_named_column_and_one_statement():
    verifier = build_verifier("code", {"column": "cases"})
    assert verifier([group("assert x == 1", "x = 1", name="cases")]).tolist() == [1]
