"""What stands between an untrusted program and this machine: a script of its own, which `sandbox.py` starts.

    python -I -S jail.py CONTAINMENT STATUS_FD PROGRAM_BYTES WALL_SECONDS LIMITS…

Standard input holds the program, then what the program is to read. There are three processes: this one makes the
namespaces (with containment `full`) and keeps the time; its child is process 1 in them, with whose end everything in
them ends; its child becomes the program. `STATUS_FD` gets a line: `exit N`, `signal N`, `time`, or `error …` when the
program was not started. It starts once for every program, so it imports little: `signal` alone would double its time.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 1 << 12, 1 << 14, 1 << 18, 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, AT_FDCWD, AT_RECURSIVE = 1, 2, 4, -100, 0x8000
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
"""System calls the C library has no name for; newer ones have the same number on every machine."""

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/nix/store")
"""What a Python needs beside its own folder."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
FOLDER = "/scratch"
"""The one place a program may write to: in memory, and gone with it."""
NOBODY = 65534
"""The program's user, as it sees itself."""
FIRST_USER = 1 << 30
"""As root, the program's user as the machine sees it is this + a process id: nobody else's, so its processes are
counted apart from all others."""


LIMITS = ("cpu_seconds", "memory", "processes", "file_bytes", "disk_bytes")
"""The numbers at the end of the command line: of each process its time and address space; of the program its processes
and threads; of each file, output included, its size; of all files in its folder."""
KILL = 9
WITH_EXIT = (
    "import builtins, sys; builtins.exit = builtins.quit = sys.exit; "
    "exec(compile(open('program.py', 'rb').read(), 'program.py', 'exec'))"
)
"""Starts the program, with the two names that programs use and Python lacks without its `site`."""


def c_function(name: str, *arguments: object) -> None:
    """A function of the C library that gives 0; else OSError saying which, and to what."""
    given = [a.encode() if isinstance(a, str) else ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*given) != 0:
        error = ctypes.get_errno()
        paths = [a for a in arguments if isinstance(a, str) and a.startswith("/")]
        raise OSError(error, os.strerror(error), " ".join([name, *paths]))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    c_function("mount", source, target, kind, flags, options)


def write_proc(proc: int, name: str, text: str) -> None:
    """Into a file of /proc, which `proc` is a descriptor of."""
    file = os.open(name, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(file, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{name}") from None
    finally:
        os.close(file)


def new_user(proc: int, uid: int, gid: int) -> None:
    """A user namespace whose only user is nobody, outside known as `uid`."""
    c_function("unshare", NEW_USERS)
    write_proc(proc, "self/setgroups", "deny")
    write_proc(proc, "self/uid_map", f"{NOBODY} {uid} 1")
    write_proc(proc, "self/gid_map", f"{NOBODY} {gid} 1")


def separate(prefix: str, disk_bytes: int) -> None:
    """Leave the machine: its network, its processes, its shared memory, its files but for the system's and Python's.

    Capabilities end when the program is started, because its user is not root; no new user namespace can give others.
    """
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    spaces = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NET
    try:
        c_function("unshare", spaces)
        root = True
    except PermissionError:
        with open("/proc/self/uid_map", encoding="ascii") as users:
            if os.geteuid() == 0 and users.read().split() == ["0", "0", "4294967295"]:
                raise  # the machine's own root is never refused another process: there would be no end to a fork bomb
        new_user(proc, os.geteuid(), os.getegid())
        c_function("unshare", spaces)
        root = False
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    enter_root(prefix, disk_bytes)
    if root:
        write_proc(proc, "sys/kernel/shmall", "0")
        uid = FIRST_USER + os.getpid()
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        c_function("prctl", SET_DUMPABLE, 1, 0, 0, 0)  # else its files in /proc stay root's
        new_user(proc, uid, uid)
    write_proc(proc, "sys/user/max_user_namespaces", "0")
    os.close(proc)


def enter_root(prefix: str, disk_bytes: int) -> None:
    """A file system in memory with what a program may see, read-only, and one folder to write to, as the new root."""
    top = "/mnt" if f"{prefix}/".startswith("/tmp/") else "/tmp"
    mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in SYSTEM if any(f"{prefix}/".startswith(f"{s}/") for s in SYSTEM) else (*SYSTEM, prefix):
        show(path, top + path)
    os.mkdir(top + FOLDER)
    os.mkdir(top + "/dev")
    for path in DEVICES:
        os.close(os.open(top + path, os.O_CREAT))
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    size = ctypes.sizeof(attributes)
    c_function("syscall", MOUNT_SETATTR, AT_FDCWD, top, AT_RECURSIVE, ctypes.byref(attributes), size)
    mount("tmpfs", top + FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk_bytes},nr_inodes=4096,mode=1777")
    for path in DEVICES:
        mount(path, top + path, None, MS_BIND)
    os.chdir(top)
    machine = os.uname().machine
    if machine not in PIVOT_ROOT:
        raise OSError(f"pivot_root has an unknown number on {machine}")
    c_function("syscall", PIVOT_ROOT[machine], ".", ".")
    c_function("umount2", ".", MNT_DETACH)
    os.chdir(FOLDER)


def show(path: str, target: str) -> None:
    """`path`, where there is such a thing, at `target` too."""
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
    elif os.path.isdir(path):
        os.makedirs(target)
        mount(path, target, None, MS_BIND | MS_REC)
    elif os.path.exists(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT))
        mount(path, target, None, MS_BIND)


def become(program: bytes, limits: dict[str, int]) -> None:
    """Write the program into this folder and turn into it."""
    with open("program.py", "wb") as file:
        file.write(program)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_NPROC, limits["processes"] + 2),  # with the two processes before it
    ):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))
    if sys.platform == "linux":
        c_function("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", WITH_EXIT], {})


def start(work: Callable[[], None], status: int) -> int:
    """A child that does `work`, and reports what goes wrong with it; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except Exception as error:
            os.write(status, f"error {error}\n".encode())
        finally:
            os._exit(0)
    return pid


def follow(pid: int, status: int) -> None:
    """Wait for a process, its orphans by the way, and say how it ended."""
    ended, code = os.wait()
    while ended != pid:
        ended, code = os.wait()
    os.write(status, (f"signal {code & 127}\n" if code & 127 else f"exit {code >> 8}\n").encode())


def die_with_parent() -> None:
    if sys.platform == "linux":
        c_function("prctl", SET_PDEATHSIG, KILL, 0, 0, 0)


def main() -> None:
    containment, status, size, wall, *numbers = sys.argv[1:]
    limits, fd = dict(zip(LIMITS, map(int, numbers), strict=True)), int(status)
    os.set_inheritable(fd, False)
    program = b""
    while len(program) < int(size) and (more := os.read(0, int(size) - len(program))):
        program += more
    alive, ending = os.pipe()  # the second process alone keeps it open: its end is the end of all

    def first() -> None:
        os.setpgid(0, 0)
        die_with_parent()
        if sys.platform == "linux":
            c_function("prctl", SET_DUMPABLE, 0, 0, 0, 0)  # the program may not trace it
        follow(start(lambda: become(program, limits), fd), fd)

    try:
        if containment == "full":
            separate(os.path.realpath(sys.base_prefix), limits["disk_bytes"])
        die_with_parent()
        child = start(first, fd)
        os.setpgid(child, child)  # whichever of the two is first
    except (OSError, AttributeError) as error:
        os.write(fd, f"error {error}\n".encode())
        return
    os.close(ending)
    if not select.select([alive], [], [], float(wall))[0]:
        os.write(fd, b"time\n")
    os.killpg(child, KILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
