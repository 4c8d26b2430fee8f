"""Servers as people run them, and how a peer talks with each: data both ways, and a check that
the server knows the peer by its own address and port."""

import dataclasses
import pathlib
import re
import subprocess
import threading
import time
from typing import Callable

import clients
from programs import SCRATCH, script, wait_listening
from topology import PEER, SERVER

PYTHON = "/usr/bin/python3"


@dataclasses.dataclass(frozen=True)
class Server:
    """`command(port)` is what is run, or `start(stand, port, preload)` does it where more is
    needed; `talk(stand, server, program, source_port, port, timeout)` is one whole conversation,
    which raises OSError (TimeoutError is one) if there is none."""

    name: str
    talk: Callable
    command: Callable = None
    prepare: Callable = None
    transport: str = "tcp"
    family: int = 6  # that the peer talks
    client: Callable = clients.tcp_client
    tools: tuple = ()
    user: str = "nobody"
    serves_once: bool = False
    other_users: bool = False
    knows_peer_as: str = None  # in what it writes: a format of {address} and {port}

    def start(self, stand, port, preload):
        if self.prepare:
            self.prepare()
        program = stand.start("A", self.command(port), preload=preload, user=self.user)
        wait_listening(program, self.transport, port)
        return program

    def peer_pattern(self, source_port):
        long_form = "2001:0db8:000b:0000:0000:0000:0000:0005"
        address = rf"(?:{re.escape(PEER[6])}|{long_form})" if self.family == 6 \
            else rf"(?:::ffff:)?{re.escape(PEER[4])}"
        return self.knows_peer_as.format(address=address, port=source_port)


def talk_over_stdio(stand, server, program, source_port, port, timeout):
    """The server shows what comes on its standard output, and sends what is typed."""
    with server.client(stand, server.family, source_port, port, timeout) as client:
        client.send(f"to the server from {source_port}\n")
        program.wait_for(f"to the server from {source_port}\n", timeout)
        program.write(f"to the peer at {source_port}\n")
        client.receive_until(f"to the peer at {source_port}\n")
        program.wait_for(server.peer_pattern(source_port))


def talk_with_echo(stand, server, program, source_port, port, timeout):
    """The server sends back every line; twice, so that the first is no accident."""
    with server.client(stand, server.family, source_port, port, timeout) as client:
        for line in (f"one from {source_port}\n", f"two from {source_port}\n"):
            client.send(line)
            client.receive_until(line)
        if server.knows_peer_as:
            program.wait_for(server.peer_pattern(source_port))


def check_address_in_answer(server, source_port, answer):
    expected = f"{PEER[server.family]} {source_port} "
    assert answer.removeprefix("::ffff:").startswith(expected), \
        f"the server answers {answer!r}, and so knows the peer by another address"


def talk_with_own_server(stand, server, program, source_port, port, timeout):
    """The server sends back every line, after the address that it has for the peer."""
    with server.client(stand, server.family, source_port, port, timeout) as client:
        client.send(f"hello from {source_port}\n")
        answer = client.receive_until(f"hello from {source_port}\n")
        check_address_in_answer(server, source_port, answer)


def talk_http(stand, server, program, source_port, port, timeout):
    """The request's words are in the server's log, with the peer's address."""
    with server.client(stand, server.family, source_port, port, timeout) as client:
        client.send(f"GET /hello.txt?{source_port} HTTP/1.0\r\n\r\n")
        answer = client.receive_all()
        assert answer.startswith("HTTP/1.0 200") and "hello from the server" in answer, answer
    program.wait_for(server.peer_pattern(source_port) + f".*hello.txt.{source_port}")


def talk_nginx(stand, server, program, source_port, port, timeout):
    with server.client(stand, server.family, source_port, port, timeout) as client:
        client.send(f"GET /from/{source_port} HTTP/1.0\r\n\r\n")
        header, _, body = client.receive_all().partition("\r\n\r\n")
        assert " 200 " in header and body == f"{PEER[6]} {source_port} /from/{source_port}\n", body


def talk_ssh(stand, server, program, source_port, port, timeout):
    """A login by key that runs a command, which reads and writes."""
    options = [word for option in (
        "BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "LogLevel=ERROR",
        "UserKnownHostsFile=/dev/null", f"IdentityFile={SCRATCH}/ssh/user_key",
        f"ProxyCommand=ncat -6 -n -p {source_port} {SERVER[6]} {port}",
    ) for word in ("-o", option)]
    client = stand.start("B", ["ssh", "-F", "none", *options, "root@server",
                               'echo "$SSH_CONNECTION"; cat'], user="root")
    client.write(f"typed at {source_port}\n")
    client.close_input()
    try:
        status = client.wait_exit(timeout)
    except subprocess.TimeoutExpired as error:
        client.stop()
        raise TimeoutError(f"{client.name}: no session within {timeout} s") from error
    assert (status, client.stdout()) == (
        0, f"{PEER[6]} {source_port} {SERVER[6]} {port}\ntyped at {source_port}\n")


def talk_with_darn(stand, server, program, source_port, port, timeout):
    """It shows what comes, and not from whom."""
    client = stand.start("B", ["sctp_darn", "-H", PEER[6], "-P", source_port, "-h", SERVER[6],
                               "-p", port, "-s"])
    client.write(f"hello from {source_port}\n")
    try:
        program.wait_for(rf"hello from {source_port}\b", timeout)
    finally:
        client.stop()


def talk_udp_over_stdio(stand, server, program, source_port, port, timeout):
    """As with TCP, but a datagram may be lost: it is sent until the server shows it."""
    with server.client(stand, server.family, source_port, port, timeout) as client:
        end = time.monotonic() + timeout
        while True:
            client.send(f"to the server from {source_port}\n")
            try:
                program.wait_for(f"to the server from {source_port}\n", 0.2)
                break
            except TimeoutError:
                if time.monotonic() > end:
                    raise
        program.write(f"to the peer at {source_port}\n")
        client.receive_until(f"to the peer at {source_port}\n")
        if server.knows_peer_as:
            program.wait_for(server.peer_pattern(source_port))


def ask_by_udp(client, text, timeout):
    """Sends until an answer with this text comes."""
    end = time.monotonic() + timeout
    while True:
        client.send(text)
        try:
            return client.receive_until(text, 0.2)
        except TimeoutError:
            if time.monotonic() > end:
                raise


def talk_udp(stand, server, program, source_port, port, timeout):
    with server.client(stand, server.family, source_port, port, timeout) as client:
        for text in (f"one from {source_port}\n", f"two from {source_port}\n"):
            answer = ask_by_udp(client, text, timeout)
        if server.knows_peer_as:
            program.wait_for(server.peer_pattern(source_port))
        else:
            check_address_in_answer(server, source_port, answer)


_making_keys = threading.Lock()


def write_page():
    (SCRATCH / "www").mkdir(parents=True, exist_ok=True)
    (SCRATCH / "www/hello.txt").write_text("hello from the server\n", encoding="ascii")


def nginx_command(port):
    """Two workers under www-data; every answer says whom nginx takes the peer for."""
    home = SCRATCH / f"nginx-{port}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "nginx.conf").write_text(f"""
        daemon off;
        user www-data;
        worker_processes 2;
        pid {home}/pid;
        error_log stderr info;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {home}/body;
            proxy_temp_path {home}/proxy;
            fastcgi_temp_path {home}/fastcgi;
            uwsgi_temp_path {home}/uwsgi;
            scgi_temp_path {home}/scgi;
            server {{
                listen [::]:{port} ipv6only=on;
                return 200 "$remote_addr $remote_port $request_uri\\n";
            }}
        }}
    """, encoding="ascii")
    return ["nginx", "-p", home, "-c", home / "nginx.conf"]


def make_ssh_keys():
    with _making_keys:
        home = SCRATCH / "ssh"
        if home.exists():
            return
        home.mkdir(parents=True)
        subprocess.run(["mkdir", "-p", "-m", "755", "/run/sshd"], check=True)
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the lab", "-f",
                            home / name], check=True)
        (home / "sshd_config").write_text(f"""
HostKey {home}/host_key
AuthorizedKeysFile {home}/user_key.pub
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile none
""", encoding="ascii")
        plain_login_for_root()


def plain_login_for_root():
    """Here, root's shell is sh and starts in an empty place: what a shell's start-up files do on
    this machine is no part of the test. The lab's mounts are its own."""
    passwd = SCRATCH / "ssh/passwd"
    lines = pathlib.Path("/etc/passwd").read_text(encoding="utf-8").splitlines(keepends=True)
    passwd.write_text("".join(
        f"root:x:0:0:root:{SCRATCH}/ssh:/bin/sh\n" if line.startswith("root:") else line
        for line in lines), encoding="utf-8")
    subprocess.run(["mount", "--bind", passwd, "/etc/passwd"], check=True)


def sshd_command(port):
    return ["/usr/sbin/sshd", "-D", "-e", "-f", SCRATCH / "ssh/sshd_config", "-p", port,
            "-o", "AddressFamily=inet6"]


def own_tcp(address, family=6):
    """Our own little server on an address, for a peer of this family."""
    return Server(
        f"tcp_server.py on {address}", talk_with_own_server, family=family,
        command=lambda port: [PYTHON, script("tcp_server.py"), address, port, "echo"])


def own_sctp(address, kind, family=6):
    return Server(
        f"sctp_server.py {kind} on {address}", talk_with_own_server, family=family,
        transport="sctp", client=clients.sctp_client,
        command=lambda port: [PYTHON, script("sctp_server.py"), address, port, kind])


def own_udp(address, how, family=6):
    return Server(
        f"udp_server.py {how} on {address}", talk_udp, family=family, transport="udp",
        client=clients.udp_client,
        command=lambda port: [PYTHON, script("udp_server.py"), address, port, how])


NCAT = Server(
    "ncat", talk_over_stdio, lambda port: ["ncat", "-n", "-v", "-l", port],
    client=clients.ncat_client, tools=("ncat",), serves_once=True,
    knows_peer_as=r"Connection from {address}:{port}\b")
OPENBSD = Server(
    "nc.openbsd", talk_over_stdio, lambda port: ["nc.openbsd", "-6", "-n", "-v", "-l", port],
    client=clients.openbsd_client, tools=("nc.openbsd",), serves_once=True,
    knows_peer_as=r"Connection received on {address} {port}\b")
TRADITIONAL = Server(
    "nc.traditional", talk_over_stdio,
    lambda port: ["nc.traditional", "-n", "-v", "-l", "-p", port], family=4,
    client=clients.traditional_client, tools=("nc.traditional",), serves_once=True,
    knows_peer_as=r"from \(UNKNOWN\) \[{address}\] {port}\b")
SOCAT = Server(
    "socat", talk_over_stdio,
    lambda port: ["socat", "-d", "-d", f"TCP6-LISTEN:{port},reuseaddr", "STDIO"],
    tools=("socat",), serves_once=True,
    knows_peer_as=r"accepting connection from AF=10 \[{address}\]:{port} ")
SOCAT_FORK = Server(
    "socat-fork", talk_with_echo,
    lambda port: ["socat", "-d", "-d", f"TCP6-LISTEN:{port},reuseaddr,fork", "EXEC:cat"],
    tools=("socat",), knows_peer_as=r"accepting connection from AF=10 \[{address}\]:{port} ")
HTTP_SERVER = Server(
    "http.server", talk_http,
    lambda port: [PYTHON, "-m", "http.server", port, "--bind", "::", "-d", SCRATCH / "www"],
    prepare=write_page, knows_peer_as=r"{address} - - ")
NGINX = Server(
    "nginx", talk_nginx, nginx_command, tools=("nginx",), user="root", other_users=True)
SSHD = Server(
    "sshd", talk_ssh, sshd_command, prepare=make_ssh_keys, user="root", other_users=True,
    tools=("sshd", "ssh", "ssh-keygen", "ncat"))

OPENBSD_UDP = Server(
    "nc.openbsd-u", talk_udp_over_stdio,
    lambda port: ["nc.openbsd", "-6", "-n", "-v", "-u", "-l", port], transport="udp",
    client=clients.udp_client, tools=("nc.openbsd",), serves_once=True,
    knows_peer_as=r"Connection received on {address} {port}\b")
SOCAT_RECVFROM = Server(
    "socat-recvfrom", talk_udp,
    lambda port: ["socat", "-d", "-d", f"UDP6-RECVFROM:{port},fork", "EXEC:cat"], transport="udp",
    client=clients.udp_client, tools=("socat",),
    knows_peer_as=r"receiving packet from AF=10 \[{address}\]:{port}")

NCAT_SCTP = Server(
    "ncat-sctp", talk_over_stdio, lambda port: ["ncat", "-6", "-n", "-v", "--sctp", "-l", port],
    transport="sctp", client=clients.ncat_sctp_client, tools=("ncat",), serves_once=True,
    knows_peer_as=r"Connection from {address}:{port}\b")
SCTP_DARN = Server(
    # It keeps what it shows to itself while nobody at a terminal looks.
    "sctp_darn", talk_with_darn,
    lambda port: ["stdbuf", "-oL", "sctp_darn", "-H", SERVER[6], "-P", port, "-l"],
    transport="sctp", tools=("sctp_darn",))
