"""Servers under filters for system calls: a sandbox's, and those that they give themselves.

Run as preloaded.py says.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from preloaded import (KEEPER, LIBRARY, PROGRAMS, REPOSITORY, Waiting, deaf_peer, plain_environment,
                       preloaded_environment, run, same_with_and_without)


# What systemd's sets hold (systemd-analyze), OpenSSH allows its child before the login, and chrony
# itself; then the least that a loop takes.
THREADS = """clone clone3 mmap mprotect munmap madvise rseq set_robust_list futex exit exit_group
    gettid rt_sigaction rt_sigprocmask rt_sigreturn brk fstat newfstatat"""
PRIVSEP = THREADS + """ clock_gettime clock_nanosleep close geteuid getpgid getpid getrandom
    gettimeofday getuid mremap nanosleep poll ppoll pselect6 read select shutdown time write writev
    accept accept4"""
CHRONY = THREADS + """ adjtimex clock_adjtime clock_gettime gettimeofday settimeofday time getpid
    getrlimit rt_sigaction set_tid_address wait4 access chmod chown fchmodat fstat lseek newfstatat
    readlink rename renameat stat statx unlink unlinkat bind connect getsockname getsockopt recvfrom
    recvmmsg recvmsg sendmmsg sendmsg sendto close openat pipe pipe2 poll ppoll pselect6 read select
    write getrandom sysinfo uname socket:2 socket:10 setsockopt fcntl accept accept4"""
# The profile that Docker gives its containers (moby, profiles/seccomp/default.json), with the
# capabilities that these have at first: no AF_VSOCK, no new namespaces, and no clone3(2).
DOCKER = """accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat
    fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list
    getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
    io_getevents io_pgetevents ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
    llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
    ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto
    setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
    setreuid setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid
    setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice
    stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat
    utimes vfork vmsplice wait4 waitid write writev process_vm_readv process_vm_writev ptrace
    arch_prctl modify_ldt chroot socket!40 clone&0x7e020000 clone3=38
    personality:0 personality:8 personality:0x20000 personality:0x20008 personality:0xffffffff"""
LOOP = THREADS + " accept accept4 read write close poll"
# The control: what the loop takes, and what the library looks for in a filter before it asks for anything.
# A call that it made and did not look for would be the end here.
WIDE = LOOP + " " + " ".join(re.findall(
    r"\{SYS_(\w+), ", re.search(r"probing\[\] = \{.*?beginning\[\]",
                               (REPOSITORY / "preload" / "filters.c").read_text(), re.S)[0]))


def system_calls_of(*sets):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze")
    found = set()
    for each in sets:
        output = subprocess.run(["systemd-analyze", "syscall-filter", each], capture_output=True,
                                text=True, check=True).stdout
        names = [line.strip() for line in output.splitlines() if line.startswith("    ")]
        found |= {name for name in names if re.match(r"\w", name)}
        found |= system_calls_of(*(name for name in names if name.startswith("@"))) \
            if any(name.startswith("@") for name in names) else set()
    return found


UNITS = {
    "service": lambda: ("kill", system_calls_of("@system-service")),
    "hardened": lambda: ("kill", system_calls_of("@system-service")
                         - system_calls_of("@privileged", "@resources")),
    "docker": lambda: ("errno", DOCKER.split()),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_server_in_a_sandbox_is_punched_for(unit, user, deaf_peer, tmp_path):
    action, names = UNITS[unit]()
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(names))
    os.chmod(tmp_path, 0o755)
    as_user = [] if user == "root" or os.geteuid() != 0 else [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for each in (PROGRAMS / "wait", PROGRAMS / "sandboxed", LIBRARY, KEEPER, allowed):
            shutil.copy(each, place)
        environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="debug")
        preload = f"LD_PRELOAD={place}/libsynergy.so"
        del environment["LD_PRELOAD"]
        runner = [*as_user, f"{place}/sandboxed", action, f"{place}/allowed",
                  "/usr/bin/env", preload]
        with Waiting("tcp", environment=environment, runner=runner, program=f"{place}/wait") as server:
            assert server.port
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
            time.sleep(0.4)  # it has confined itself by then
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
            server.process.stdin.write("c")
            server.process.stdin.flush()
            status, errors = server.end()
    assert status == 0
    assert "killed" not in errors and "error" not in errors


FILTERS = {"privilege separation": PRIVSEP, "chrony": CHRONY, "loop": LOOP, "wide": WIDE}
UNSEEN = "set without libc"


def refuses(peer, port):
    """It is told, in time: its connection can't be handed over."""
    with pytest.raises(ConnectionError):
        with peer.call(port, 3) as client:
            client.recv(1)
            raise ConnectionResetError


@pytest.mark.parametrize("name, action", [("loop", "kill"), ("loop", "trap"), ("loop", "errno"), ("wide", "kill")])
def test_a_filter_that_a_server_gives_itself_unseen_does_not_end_it(name, action, deaf_peer, tmp_path):
    """By an instruction of its own, after listen(): the library can't know what it forbids, and the
    keeper sees in /proc that there is one."""
    allowed = tmp_path / "allowed"
    allowed.write_text(FILTERS[name])
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("tcp", f"unseen-only-{action}:{allowed}", environment=environment) as server:
        refuses(deaf_peer, server.port)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            mine = client.getsockname()[1]
            assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        status, errors = server.end()
    assert status == 0
    assert errors.count(UNSEEN) == 1, errors


STARTS_ONE_THAT_CONFINES_ITSELF = """
import os, select, socket, sys
listener = socket.create_server(("", 0))
mine, its = os.pipe()
if os.fork() == 0:
    os.dup2(its, 1)
    os.execve(sys.argv[1], ["wait", "tcp", sys.argv[2]], {})
os.read(mine, 10)
print(listener.getsockname()[1], flush=True)
while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
    client, address = listener.accept()
    with client:
        client.sendall(f"{address[0]} {address[1]}".encode())
"""


def test_a_filter_of_a_program_that_a_server_starts_is_its_own(deaf_peer, tmp_path):
    """The keeper sees its filter, and may not see that it has no descriptor of the listener."""
    allowed = tmp_path / "allowed"
    allowed.write_text(LOOP)
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("-c", STARTS_ONE_THAT_CONFINES_ITSELF, str(PROGRAMS / "wait"), f"unseen-only-kill:{allowed}",
                 program=sys.executable, environment=environment) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert server.end() == (0, "")


# Exactly what the program `filtered` calls.
LEAST = "socket bind listen write close exit_group"
WORDLESS = LEAST.replace("write", "")
NO_START = ("synergy: error: nothing is punched: a system call filter that this process has given itself forbids "
            "what starts synergy-keeper\n")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("when, lines", [("first", ["serves", "closed"]), ("second", ["serves", "closed", "closed"])])
def test_a_server_that_has_a_filter_when_it_listens_is_not_ended(when, lines, transport, tmp_path):
    """It allows no more than the server calls, and goes on as without the library."""
    allowed = tmp_path / "allowed"
    allowed.write_text(LEAST)
    assert same_with_and_without("filtered", transport, when, allowed) == lines
    # The control: a call more would be its end.
    allowed.write_text(WORDLESS)
    assert run(PROGRAMS / "filtered", transport, when, allowed, environment=plain_environment()).returncode \
        == -signal.SIGSYS


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("when, errors", [("first", NO_START), ("second", "")], ids=["first", "second"])
def test_a_filter_that_lets_no_keeper_start_is_named(when, errors, transport, tmp_path):
    """Where the library may ask a keeper, and say something: the one that there is already, if so."""
    allowed = tmp_path / "allowed"
    allowed.write_text(f"{WIDE} {LEAST}")
    done = run(PROGRAMS / "filtered", transport, when, allowed,
               environment=preloaded_environment(SYNERGY_LOG="warn"))
    assert done.returncode == 0
    assert done.stdout.startswith("serves\nclosed\n")
    assert done.stderr == errors


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("name, action", [*((name, "kill") for name in FILTERS), ("loop", "trap"),
                                          ("loop", "errno"), ("chrony", "errno")])
def test_a_filter_that_a_server_gives_itself_never_ends_it(name, action, transport, deaf_peer, tmp_path):
    """For all threads, after listen(). What it forbids the library does not try."""
    allowed = tmp_path / "allowed"
    allowed.write_text(FILTERS[name])
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting(transport, f"only-{action}:{allowed}", environment=environment) as server:
        if transport == "tcp":
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", server.port)) as client:
                    mine = client.getsockname()[1]
                    assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
                if name == "wide":
                    assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
                    continue
                with pytest.raises(ConnectionError):  # nobody can hand it over: it is told
                    with deaf_peer.call(server.port) as peer:
                        peer.recv(1)
                        raise ConnectionResetError
                assert server.process.poll() is None
        server.process.stdin.write("c")
        server.process.stdin.flush()
        status, errors = server.end()
    assert status == 0
    if transport == "tcp":
        assert errors.count("system call filter") == (name != "wide")
