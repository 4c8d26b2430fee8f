"""What starts others for each connection, and netcats."""

import servers
from by_name import ECHO, IPV4, LINE, Named, TLS, UDP, ask, converse, named, run, written
from by_name_proxies import THROUGH
from programs import script
from servers import PYTHON


def tcpserver(home, port, _):
    return ["tcpserver", "-6", "-H", "-R", "-u", "65534", "-g", "65534", "0", port, "sh", "-c",
            'read line; echo "$TCP6REMOTEIP $TCP6REMOTEPORT $line"']


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


def ncat(*options):
    return run("ncat", "-6", "-n", "-k", "-l", "{port}", *options)


SERVERS = (
    named("systemd-socket-activate", servers.talk_with_own_server, activate(),
          "systemd-socket-activate"),
    named("systemd-socket-activate --accept --inetd", servers.talk_with_own_server,
          activate("--accept", "--inetd"), "systemd-socket-activate"),
    *(Named(f"{name} {service}", servers.talk_udp if "UDP" in service
            else servers.talk_with_own_server, make=inetd(program, service), tools=(program,),
            transport="udp" if "UDP" in service else "tcp",
            client=servers.clients.udp_client if "UDP" in service else servers.clients.tcp_client)
      for name, program in (("openbsd-inetd", "inetd"), ("inetutils-inetd", "inetutils-inetd"),
                            ("xinetd", "xinetd")) for service in SERVICES),
    named("tcpserver", converse(*LINE), tcpserver, "tcpserver"),
    named("ncat -k", converse(*LINE), ncat("--exec", "/bin/cat"), "ncat"),
    named("ncat -k UDP", ask(*ECHO), ncat("-u", "--exec", "/bin/cat"), "ncat", **UDP),
    named("ncat -k --ssl", TLS, ncat("--ssl", "--exec", "/bin/cat"), "ncat"),
    named("ncat --proxy-type http", THROUGH, ncat("--proxy-type", "http"), "ncat"),
    named("nc.openbsd -k", converse(*LINE),
          run("sh", "-c", "mkfifo {home}/f; nc.openbsd -6 -k -l {port} <{home}/f | cat >{home}/f"),
          "nc.openbsd"),
    named("socat fork", converse(*LINE), run("socat", "TCP6-LISTEN:{port},fork", "EXEC:cat"), "socat"),
    named("socat fork IPv4", converse(*LINE), run("socat", "TCP4-LISTEN:{port},fork,reuseaddr", "EXEC:cat"),
          "socat", **IPV4),
    named("socat UDP", ask(*ECHO), run("socat", "UDP6-RECVFROM:{port},fork", "EXEC:cat"), "socat", **UDP),
    named("socat UDP-LISTEN", ask(*ECHO),
          run("socat", "UDP6-LISTEN:{port},fork", "EXEC:cat"), "socat", **UDP),
)
