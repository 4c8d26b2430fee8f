"""Servers from Debian by their names, as their packages or their manuals have them started, and what
a client says to each. test_by_name.py tries those of CHOSEN; scripts/servers all, and writes down
what each got."""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import time

import namespace
import servers
from programs import SCRATCH, script, SETTLING, Program, fresh_peer_ports, is_listening, wait_until
from servers import PYTHON, Server
from topology import PEER, SERVER

LDAP_BIND = bytes.fromhex("300c020101600702010304008000")
LDAP_BOUND = bytes.fromhex("61070a010004000400")


@dataclasses.dataclass(frozen=True)
class Named(Server):
    """`make(home, port)` writes what the server needs below `home`, and gives the command. It runs
    as root, which gives itself up as it likes. What must be root's own environment to reach further
    programs is in `passes`: {variables} stands for the library's."""

    make: callable = None
    user: str = "root"
    other_users: bool = True
    environment: callable = None  # (preload) -> {name: value}

    def start(self, stand, port, preload):
        home = SCRATCH / f"{self.name.replace(' ', '-').replace('/', '-')}-{port}"
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        variables = preload.environment() if preload else {}
        command = self.make(home, port, variables)
        program = stand.start("A", command, preload=preload, user=self.user,
                              environment={"HOME": "/root"})
        # Who was started may have gone to the background by then.
        wait_until(lambda: is_listening(stand.path, "A", self.transport, port), 30,
                   f"{self.name} on port {port}")
        time.sleep(SETTLING)
        return program


def converse(question, answer):
    """A client that says something, or nothing, and awaits what the server says to that."""
    def talk(stand, server, program, source_port, port, timeout):
        with server.client(stand, server.family, source_port, port, timeout) as client:
            if question:
                client.sock.sendall(question if isinstance(question, bytes) else question.encode())
            wanted = answer if isinstance(answer, bytes) else answer.encode()
            while wanted not in client.received:
                client.sock.settimeout(timeout)
                data = client.sock.recv(65536)
                if not data:
                    raise ConnectionError(f"{answer!r} did not come, but {client.received!r}")
                client.received += data
    return talk


HTTP = converse("GET / HTTP/1.0\r\n\r\n", "HTTP/1.")


def written(path, text):
    path.write_text(text, encoding="ascii")
    return path


def owned(path, user):
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, user)
    return path


def slapd(home, port, _):
    owned(home / "run", "openldap")
    conf = written(home / "slapd.conf",
                   f"include /etc/ldap/schema/core.schema\npidfile {home}/run/pid\n")
    return ["slapd", "-h", f"ldap://[::]:{port}", "-u", "openldap", "-g", "openldap", "-f", conf]


def squid(*options):
    def make(home, port, _):
        owned(home / "run", "proxy")
        conf = written(home / "squid.conf", f"""
            http_port [::]:{port}
            http_access deny all
            pid_filename {home}/run/pid
            cache_log {home}/run/log
            access_log none
            coredump_dir {home}/run
            visible_hostname lab
        """)
        return ["squid", *options, "-n", f"lab{port}", "-f", conf]
    return make


def varnishd(home, port, _):
    return ["varnishd", "-F", "-a", f"[::]:{port}", "-b", "none", "-n", home / "work",
            "-T", "none", "-s", "malloc,10M"]


def kamailio(transport):
    def make(home, port, _):
        conf = written(home / "kamailio.cfg", f"""
            children=2
            tcp_children=2
            listen={transport}:[{SERVER[6]}]:{port}
            mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/"
            loadmodule "pv.so"
            loadmodule "sl.so"
            request_route {{ sl_send_reply("200", "OK $si $sp"); }}
        """)
        owned(home / "run", "nobody")
        return ["kamailio", "-f", conf, "-u", "nobody", "-g", "nogroup", "-P", home / "run/pid",
                "-Y", home / "run", "-DD", "-E", "-m", "16", "-M", "4"]
    return make


SIP = ("OPTIONS sip:lab SIP/2.0\r\nVia: SIP/2.0/TCP lab:5060;branch=z9hG4bK1\r\nMax-Forwards: 9\r\n"
       "From: <sip:a@lab>;tag=1\r\nTo: <sip:b@lab>\r\nCall-ID: 1@lab\r\nCSeq: 1 OPTIONS\r\n"
       "Content-Length: 0\r\n\r\n")


def talk_sip(stand, server, program, source_port, port, timeout):
    converse(SIP, f"200 OK {PEER[6]} {source_port}".replace("200 OK", "SIP/2.0 200 OK"))(
        stand, server, program, source_port, port, timeout)


def talk_sip_udp(stand, server, program, source_port, port, timeout):
    with server.client(stand, server.family, source_port, port, timeout) as client:
        end = time.monotonic() + timeout
        while True:
            client.send(SIP.replace("/TCP", "/UDP").replace(" lab:5060", f" lab:{source_port}"))
            try:
                client.receive_until("SIP/2.0 200 OK", 0.3)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise


def postfix(home, port, variables):
    """Its programs are executed with what import_environment names, and with its listener."""
    queue = home / "spool"
    queue.mkdir()
    names = " ".join(["MAIL_CONFIG", *variables])
    written(home / "main.cf", f"""
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {home}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = lab.example
mydestination =
inet_interfaces = all
inet_protocols = ipv6
import_environment = {names}
smtpd_peername_lookup = no
maillog_file = {home}/log
maillog_file_prefixes = {home}
smtpd_relay_restrictions = reject
alias_maps =
""")
    owned(home / "data", "postfix")
    services = "\n".join(f"{name} unix - - n - {most} {program}" for name, most, program in (
        ("anvil", 1, "anvil"), ("rewrite", 0, "trivial-rewrite"), ("proxymap", 0, "proxymap")))
    written(home / "master.cf", f"""
{port} inet n - y - - smtpd
{services}
postlog unix-dgram n - n - 1 postlogd
""")
    with open(home / "said", "wb") as said:
        subprocess.run(["postfix", "-c", home, "check"], check=True, stdout=said, stderr=said)
    return ["/usr/lib/postfix/sbin/master", "-c", home, "-d"]


def apache(module):
    """Debian's configuration, but for the port and the module."""
    def make(home, port, _):
        conf = home / "apache2"
        shutil.copytree("/etc/apache2", conf, symlinks=True)
        for link in (conf / "mods-enabled").glob("mpm_*"):
            link.unlink()
        for kind in ("load", "conf"):
            (conf / f"mods-enabled/mpm_{module}.{kind}").symlink_to(
                f"../mods-available/mpm_{module}.{kind}")
        written(conf / "ports.conf", f"Listen [::]:{port}\n")
        for name in ("run", "lock", "log"):
            (home / name).mkdir()
        start = written(home / "run.sh", f"""
            export APACHE_CONFDIR={conf} APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data
            export APACHE_PID_FILE={home}/run/pid APACHE_RUN_DIR={home}/run
            export APACHE_LOCK_DIR={home}/lock APACHE_LOG_DIR={home}/log LANG=C
            exec apache2 -d {conf} -k start
        """)
        return ["sh", start]
    return make


def haproxy(*options, more=""):
    def make(home, port, _):
        (home / "empty").mkdir()
        conf = written(home / "haproxy.cfg", f"""
global
    log stderr format raw daemon
    chroot {home}/empty
    user haproxy
    group haproxy
    {more}
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend lab
    bind :::{port}
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port]\\n"
""")
        return ["haproxy", *options, "-f", conf, "-p", home / "pid"]
    return make


def talk_haproxy(stand, server, program, source_port, port, timeout):
    converse("GET / HTTP/1.0\r\n\r\n", f"{PEER[6]} {source_port}\n")(
        stand, server, program, source_port, port, timeout)


def dovecot(home, port, variables):
    names = " ".join(f"{name}={value}" for name, value in variables.items() if " " not in value)
    conf = written(home / "dovecot.conf", f"""
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
ssl = no
listen = ::
protocols = imap
import_environment = TZ {names}
passdb {{
  driver = static
  args = nopassword=y
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""")
    return ["dovecot", "-F", "-c", conf]


def exim(home, port, _):
    place = shutil.which("exim4")
    shutil.chown(home, "nobody", "nogroup")
    conf = written(home / "exim.conf", f"""
exim_user = nobody
exim_group = nogroup
never_users =
spool_directory = {home}/spool
log_file_path = {home}/log-%slog
primary_hostname = lab.example
daemon_smtp_ports = {port}
local_interfaces = <; ::0
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt =
begin routers
""")
    return [place, "-C", conf, "-bdf", "-oP", home / "pid"]


def exim_of_debian(home, port, _):
    """Debian's configuration, but for where it listens."""
    return ["exim4", "-bd", "-q30m", "-oX", f"<; [::]:{port}", "-oP", home / "pid"]


def iperf(home, port, _):
    return ["iperf3", "-s", "-p", port]


@contextlib.contextmanager
def ports_of_the_peer(stand, ports):
    """Where a client can't be told, the kernel chooses the port that it calls from."""
    name = "net/ipv4/ip_local_port_range"
    before = {name: "32768 60999"}
    namespace.sysctl(stand.path.namespace("B"), {name: f"{ports[0]} {ports[-1]}"})
    try:
        yield
    finally:
        namespace.sysctl(stand.path.namespace("B"), before)


def run_on_peer(stand, command, timeout):
    client = stand.start("B", command, user="root")
    try:
        status = client.wait_exit(timeout)
    except subprocess.TimeoutExpired as error:
        client.stop()
        raise TimeoutError(f"{client.name}: {timeout} s") from error
    if status != 0:
        raise ConnectionError(f"{client.name}: {status}: {client.stdout()[-300:]} "
                              f"{client.stderr()[-300:]}")
    return client.stdout()


def talk_iperf(*options):
    def talk(stand, server, program, source_ports, port, timeout):
        with ports_of_the_peer(stand, source_ports):
            run_on_peer(stand, ["iperf3", "-6", "-c", SERVER[6], "-p", port, "-n", "100K",
                                "--connect-timeout", int(timeout * 1000), *options], timeout + 10)
    return talk


PASSIVE = 10  # ports of the server's


def vsftpd(home, port, _):
    (home / "files").mkdir()
    (home / "empty").mkdir()
    written(home / "files/hello.txt", "hello from the server\n")
    conf = written(home / "vsftpd.conf", f"""
listen=NO
listen_ipv6=YES
listen_port={port}
anonymous_enable=YES
local_enable=NO
anon_root={home}/files
secure_chroot_dir={home}/empty
pasv_min_port={port + 20000}
pasv_max_port={port + 20000 + PASSIVE - 1}
xferlog_enable=NO
background=NO
""".lstrip())
    return ["vsftpd", conf]


def talk_ftp(stand, server, program, source_ports, port, timeout):
    """One file, over a connection of the control's and one of the data's."""
    got = run_on_peer(stand, ["curl", "-s", "-S", "-m", int(timeout), "--local-port",
                              f"{source_ports[0]}-{source_ports[-1]}",
                              f"ftp://[{SERVER[6]}]:{port}/hello.txt"], timeout + 2)
    if got != "hello from the server\n":
        raise ConnectionError(f"curl got {got!r}")


def openvpn_keys():
    home = SCRATCH / "openvpn"
    if home.exists():
        return home
    home.mkdir()
    for who in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "9", "-subj", f"/CN={who}", "-keyout", home / f"{who}.key", "-out",
             home / f"{who}.crt"], check=True, capture_output=True)
    return home


def fingerprint(certificate):
    said = subprocess.run(["openssl", "x509", "-fingerprint", "-sha256", "-noout", "-in",
                           certificate], check=True, capture_output=True, text=True)
    return said.stdout.strip().partition("=")[2]


def openvpn(transport):
    def make(home, port, _):
        keys = openvpn_keys()
        return ["openvpn", "--dev", "tun", "--proto", transport, "--port", port, "--tls-server",
                "--mode", "server", "--ifconfig-noexec", "--route-noexec", "--dh", "none", "--cert", keys / "server.crt", "--key",
                keys / "server.key", "--peer-fingerprint", fingerprint(keys / "client.crt"),
                "--duplicate-cn", "--user", "nobody", "--group", "nogroup", "--keepalive", 10, 60]
    return make


def talk_openvpn(transport):
    def talk(stand, server, program, source_port, port, timeout):
        keys = openvpn_keys()
        client = stand.start("B", [
            "openvpn", "--dev", "null", "--proto", transport, "--remote", SERVER[6], port,
            "--lport", source_port, "--bind", "--tls-client", "--cert", keys / "client.crt",
            "--key", keys / "client.key", "--peer-fingerprint", fingerprint(keys / "server.crt"),
            "--pull", "--connect-retry-max", 1], user="root")
        try:
            client.wait_for("Initialization Sequence Completed", timeout)
        finally:
            client.stop()
    return talk


def activate(*options):
    """Of its environment it passes on what it is told to."""
    def make(home, port, variables):
        passed = [word for name in variables for word in ("-E", name)]
        family = script("family_server.py")
        tail = [PYTHON, family, port, "inetd-nowait" if "--inetd" in options else "activated"]
        if "--inetd" not in options:
            tail.append("accept")
        return ["systemd-socket-activate", "-l", f"[::]:{port}", *options, *passed, *tail]
    return make


# A wait service, for ever and for one client each time; a nowait one; and the same by datagrams.
SERVICES = {
    "wait": ("tcp", "wait", "inetd"), "wait once": ("tcp", "wait", "inetd-once"),
    "nowait": ("tcp", "nowait", "inetd-nowait"),
    "wait UDP": ("udp", "wait", "inetd-udp"), "wait once UDP": ("udp", "wait", "inetd-udp-once"),
}
XINETD = """
service lab
{{
    type = UNLISTED
    flags = IPv6
    port = {port}
    socket_type = {kind}
    protocol = {transport}
    wait = {wait}
    user = nobody
    server = {words[0]}
    server_args = {arguments}
}}
"""


def inetd(program, service):
    transport, waits, how = SERVICES[service]
    kind = "stream" if transport == "tcp" else "dgram"

    def make(home, port, variables):
        words = [PYTHON, str(script("family_server.py")), str(port), how]
        if program == "inetd" and waits == "wait":
            # It keeps LD_PRELOAD from what it starts.
            words = ["/usr/bin/env", *map("=".join, variables.items()), *words]
        if program == "xinetd":
            conf = written(home / "conf", XINETD.format(
                port=port, kind=kind, transport=transport, wait="yes" if waits == "wait" else "no",
                words=words, arguments=" ".join(words[1:])))
            return ["xinetd", "-dontfork", "-f", conf, "-pidfile", home / "pid"]
        conf = written(home / "conf", f"{port} {kind} {transport}6 {waits} nobody "
                       f"{words[0]} {' '.join(words)}\n")
        return [program, *(["-i"] if program == "inetd" else ["-p", home / "pid"]), conf]
    return make


def tcpserver(home, port, _):
    return ["tcpserver", "-6", "-H", "-R", "-u", "65534", "-g", "65534", "0", port, "sh", "-c",
            'read line; echo "$TCP6REMOTEIP $TCP6REMOTEPORT $line"']


def nginx_deferred(home, port, _):
    command = servers.nginx_command(port)
    conf = pathlib.Path(command[-1])
    conf.write_text(conf.read_text(encoding="ascii").replace("ipv6only=on", "ipv6only=on deferred"),
                    encoding="ascii")
    return command


@dataclasses.dataclass(frozen=True)
class Chosen(Named):
    """The client takes any of these ports: it can't be told one for each call."""

    ports_for_a_call: int = 0


ALL = (
    Named("slapd", converse(LDAP_BIND, LDAP_BOUND), make=slapd, tools=("slapd",)),
    Named("squid -N", HTTP, make=squid("-N"), tools=("squid",)),
    Named("varnishd", HTTP, make=varnishd, tools=("varnishd",)),
    Named("kamailio -u nobody", talk_sip, make=kamailio("tcp"), tools=("kamailio",)),
    Named("kamailio -u nobody UDP", talk_sip_udp, make=kamailio("udp"), tools=("kamailio",),
          transport="udp", client=servers.clients.udp_client),
    Named("postfix", converse(None, "220 lab.example"), make=postfix, tools=("postfix",)),
    *(Named(f"apache {module}", HTTP, make=apache(module), tools=("apache2",))
      for module in ("prefork", "worker", "event")),
    Named("haproxy", talk_haproxy, make=haproxy("-db"), tools=("haproxy",)),
    Named("haproxy -W", talk_haproxy, make=haproxy("-W"), tools=("haproxy",)),
    Named("haproxy -Ws", talk_haproxy, make=haproxy("-Ws"), tools=("haproxy",)),
    Named("haproxy -Ws insecure-fork-wanted", talk_haproxy,
          make=haproxy("-Ws", more="insecure-fork-wanted"), tools=("haproxy",)),
    Named("dovecot imap-login", converse(None, "* OK"), make=dovecot, tools=("dovecot",)),
    Named("exim4 -bdf", converse(None, "220 lab.example"), make=exim, tools=("exim4",)),
    Named("exim4 -bd -q30m", converse(None, " ESMTP Exim "), make=exim_of_debian, tools=("exim4",)),
    Chosen("iperf3", talk_iperf(), make=iperf, tools=("iperf3",), ports_for_a_call=4),
    Chosen("iperf3 -u", talk_iperf("-u", "-b", "10M"), make=iperf, tools=("iperf3",),
           ports_for_a_call=4),
    Chosen("vsftpd passive", talk_ftp, make=vsftpd, tools=("vsftpd", "curl"), ports_for_a_call=4),
    Named("openvpn tcp-server", talk_openvpn("tcp6-client"), make=openvpn("tcp6-server"),
          tools=("openvpn",)),
    Named("openvpn udp", talk_openvpn("udp6"), make=openvpn("udp6"), tools=("openvpn",),
          transport="udp"),
    Named("systemd-socket-activate", servers.talk_with_own_server, make=activate(),
          tools=("systemd-socket-activate",)),
    Named("systemd-socket-activate --accept --inetd", servers.talk_with_own_server,
          make=activate("--accept", "--inetd"), tools=("systemd-socket-activate",)),
    *(Named(f"{name} {service}", servers.talk_udp if "UDP" in service
            else servers.talk_with_own_server, make=inetd(program, service), tools=(program,),
            transport="udp" if "UDP" in service else "tcp",
            client=servers.clients.udp_client if "UDP" in service else servers.clients.tcp_client)
      for name, program in (("openbsd-inetd", "inetd"), ("inetutils-inetd", "inetutils-inetd"),
                            ("xinetd", "xinetd")) for service in SERVICES),
    Named("tcpserver", converse("hello\n", "hello\n"), make=tcpserver, tools=("tcpserver",)),
    Named("nginx deferred", servers.talk_nginx, make=nginx_deferred, tools=("nginx",)),
)

# Those that the lab tries each time.
CHOSEN = ("haproxy -W", "haproxy -Ws", "apache event", "nginx deferred", "systemd-socket-activate")
