"""Programs that misbehave, really run: each does its worst, and the machine is none the worse for it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tether.errors import InputError
from tether.rewards import sandbox
from tether.rewards.sandbox import JAIL, SandboxConfig, check_containment, run_program

try:
    check_containment("full")
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


LONG = 120
"""Seconds in which even a busy machine gives a program one of processor time."""


def marker() -> str:
    """Words that no other process of this machine has on its command line."""
    return f"marked-{secrets.token_hex(8)}"


def running(marker: str) -> list[str]:
    """The command lines on this machine that hold `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if marker in line and folder.name != str(os.getpid()):
            found.append(line)
    return found


def tried(program: str) -> str:
    """A program that says which of its deeds succeeded."""
    lines = "".join(f"    {line}\n" for line in program.strip().splitlines())
    return f"try:\n{lines}except Exception as error:\n    print(type(error).__name__)\nelse:\n    print('done')\n"


def test_what_an_honest_program_reads_prints_and_says_at_its_end():
    outcome = run_program(
        "import sys\nprint(sorted(map(int, sys.stdin)))\nprint('hm', file=sys.stderr)\nexit(3)", "2\n1\n"
    )
    assert outcome == ("exit", 3, "[1, 2]\n", "hm\n")
    assert not outcome.succeeded
    assert run_program("").succeeded
    assert run_program("from __future__ import annotations\nprint('ü', input())", "é").stdout == "ü é\n"
    assert run_program("print(1/0)").stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run_program("import os; os.kill(os.getpid(), 15)")[:2] == ("signal", 15)


def test_the_standard_library_is_there_and_nothing_else():
    assert run_program("import json, math, re, decimal, itertools, heapq, ssl, sqlite3, zoneinfo").succeeded
    assert "ModuleNotFoundError" in run_program("import numpy").stderr
    assert "ModuleNotFoundError" in run_program("import tether").stderr


def test_a_fork_bomb():
    bomb = marker()
    loop = f"import os\nwhile True: os.fork()  # {bomb}"
    program = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-I', '-S', '-c', {loop!r}])"
    before = time.monotonic()
    outcome = run_program(program, config=SandboxConfig(wall_seconds=3))
    assert not outcome.succeeded
    assert time.monotonic() - before < LONG
    assert running(bomb) == []


def test_processes_are_counted():
    program = """
import os, time
count = 0
try:
    while count < 40:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        count += 1
except OSError:
    print(count)
"""
    assert run_program(program, config=SandboxConfig(processes=4)).stdout == "3\n"
    threads = "import threading, time\nfor i in range(40): threading.Thread(target=time.sleep, args=(1,)).start()"
    assert "can't start new thread" in run_program(threads, config=SandboxConfig(processes=4)).stderr


@pytest.mark.parametrize(
    "deed", ["x = bytearray(10 << 30)", "x = 'x' * (10 << 30)", "import mmap; mmap.mmap(-1, 10 << 30)"]
)
def test_ten_gigabytes_of_memory(deed):
    assert run_program(tried(deed)).stdout in ("MemoryError\n", "OSError\n")


def test_ten_gigabytes_on_disk_or_in_shared_memory():
    big = "x = open('big', 'wb')\nwhile True: x.write(bytes(1 << 20)); x.flush()"
    assert run_program(tried(big)).stdout == "OSError\n"
    many = "for i in range(1000):\n    with open(str(i), 'wb') as x: x.write(bytes(200 << 10))"
    assert run_program(tried(many)).stdout == "OSError\n"
    hidden = "import os\nx = os.memfd_create('x')\nos.posix_fallocate(x, 0, 10 << 30)"
    assert run_program(tried(hidden)).stdout == "OSError\n"


def test_a_loop_without_end():
    outcome = run_program("while True: pass", config=SandboxConfig(cpu_seconds=1, wall_seconds=LONG))
    assert outcome[:2] == ("signal", 24)
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run_program(deaf, config=SandboxConfig(cpu_seconds=1, wall_seconds=LONG))[:2] == ("signal", 9)


def test_sleeping_for_ever():
    program = "print('z', flush=True)\nimport time\ntime.sleep(1e6)"
    for wall in (2, LONG):  # the second where the machine was too busy to let it begin
        outcome = run_program(program, config=SandboxConfig(wall_seconds=wall))
        if outcome.stdout:
            break
    assert outcome == ("time", 0, "z\n", "")


def test_no_network():
    name = marker()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind(f"\0{name}")
        hidden.listen()
        port = server.getsockname()[1]
        for deed in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
            "import socket; socket.getaddrinfo('example.org', 80)",
            f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')",
        ):
            assert run_program(tried(deed)).stdout in ("OSError\n", "gaierror\n", "ConnectionRefusedError\n"), deed


def test_files_of_this_machine(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("7391")
    home = Path.home() / ".tether-sandbox-test"
    assert not home.exists()
    reads = [str(secret), "/etc/passwd", "/proc/self/status", str(Path.home() / ".bashrc"), __file__]
    writes = [str(home), str(tmp_path / "x"), "/tmp/x", "/usr/x", "/x", "/dev/x", sys.base_prefix + "/x"]
    writes.append("/scratch/../y")
    deeds = [f"open({path!r}).read()" for path in reads] + [f"open({path!r}, 'w').write('x')" for path in writes]
    for deed in [*deeds, "import os; os.mkdir('/tmp')", "import os; os.chmod('/usr', 0o777)"]:
        assert run_program(tried(deed)).stdout in ("FileNotFoundError\n", "OSError\n", "PermissionError\n"), deed
    assert not home.exists()
    assert run_program("open('mine', 'w').write('x')\nprint(open('mine').read())").stdout == "x\n"
    assert run_program("import os; print(os.getcwd(), sorted(os.listdir()))").stdout == "/scratch ['program.py']\n"
    left = run_program(
        "import os\nfor fd in range(3, 64):\n  try: print(fd, os.fstat(fd))\n  except OSError: pass"
    ).stdout
    assert left == ""


def test_the_environment(monkeypatch):
    monkeypatch.setenv("TETHER_SECRET", secret := marker())
    program = """
import os, glob
print(dict(os.environ))
for path in glob.glob('/proc/*/environ'):
    print(open(path).read())
import subprocess
print(subprocess.run(['/bin/sh', '-c', 'set; ps aux'], capture_output=True, text=True).stdout)
"""
    outcome = run_program(program)
    assert outcome.succeeded
    assert secret not in outcome.stdout
    assert "TETHER" not in outcome.stdout


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_gigabyte_of_output(stream):
    program = f"import sys\nfor i in range(1024): sys.{stream}.write('x' * (1 << 20)); sys.{stream}.flush()"
    outcome = run_program(program, config=SandboxConfig(output_kb=64))
    assert outcome.end == "output"
    assert len(outcome.stdout) + len(outcome.stderr) <= 128 << 10


def test_a_daemon_does_not_outlive_its_program():
    daemon = marker()
    program = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv('/bin/sh', ['/bin/sh', '-c', 'sleep 77391; true', '{daemon}'])
    os._exit(0)
time.sleep(0.3)
print('left')
"""
    before = time.monotonic()
    assert run_program(program, config=SandboxConfig(wall_seconds=LONG)).stdout == "left\n"
    assert time.monotonic() - before < LONG  # it is not waited for
    assert running(daemon) == []


def test_no_privileges_and_no_way_to_any():
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.getuid(), os.getppid())
print([libc.unshare(1 << 28), libc.unshare(1 << 17), libc.mount(b'x', b'/work', b'tmpfs', 0, 0), libc.chroot(b'/usr')])
print(libc.ptrace(16, 1, 0, 0))
"""
    assert run_program(program).stdout == "65534 1\n[-1, -1, -1, -1]\n-1\n"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes root, to be less than root")
def test_a_user_without_privileges_contains_programs_too():
    """The same jail started by a mere user, with the system's Python, because nobody else may read into root's home."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("there is no Python that everybody may run")
    program = b"import os\nprint(os.getuid(), len(os.listdir('/')) < 12, os.path.exists('/proc'))\nopen('/usr/x', 'w')"
    read, write = os.pipe()
    with open(read, "rb") as report, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        jail = shutil.copy(JAIL, folder)
        command = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", python, "-I", "-S", str(jail), "full"]
        numbers = (write, len(program), 5, 5, 512 << 20, 8, 1 << 20, 1 << 20)
        done = subprocess.run([*command, *map(str, numbers)], input=program, pass_fds=(write,), capture_output=True)
        os.close(write)
        said = report.read()
    if b"error" in said and b"unshare" in said:
        pytest.skip("users make no namespaces here")
    assert (said, done.stdout) == (b"exit 1\n", b"65534 True False\n")
    assert b"Read-only file system" in done.stderr or b"Permission denied" in done.stderr


def test_a_machine_that_cannot_contain_programs_refuses(monkeypatch, tmp_path):
    broken = tmp_path / "jail.py"
    broken.write_text(JAIL.read_text().replace('c_function("unshare", spaces)', 'c_function("unshare", -1)'))
    monkeypatch.setattr(sandbox, "JAIL", broken)
    check_containment.cache_clear()
    try:
        with pytest.raises(InputError, match=r"cannot contain untrusted programs \(.*unshare.*containment = 'limits'"):
            check_containment("full")
        check_containment("limits")
    finally:
        check_containment.cache_clear()


def test_limits_alone_still_bound_time_memory_and_output():
    open_to_all = SandboxConfig(containment="limits", cpu_seconds=1, wall_seconds=LONG, output_kb=4)
    assert run_program("print(input())", "x", open_to_all).stdout == "x\n"
    assert run_program("while True: pass", "", open_to_all)[:2] == ("signal", 24)
    hasty = open_to_all.model_copy(update={"wall_seconds": 1.0})
    assert run_program("import time; time.sleep(99)", "", hasty).end == "time"
    assert run_program("print('x' * 9999)", "", open_to_all).end == "output"
    assert run_program(tried("bytearray(10 << 30)"), "", open_to_all).stdout == "MemoryError\n"
    assert run_program("import os; print(os.environ.get('HOME'))", "", open_to_all).stdout == "None\n"


def test_nothing_is_left_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for containment in ("full", "limits"):
        run_program("open('x', 'w').write('x')", config=SandboxConfig(containment=containment))
    assert list(tmp_path.iterdir()) == []
