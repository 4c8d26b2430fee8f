"""Messages, between people and between programs."""

import shutil

import servers
from by_name import GO, WEB, as_user, calls_with, converse, named, owned, run, with_file


def talk_irc(stand, server, program, source_port, port, timeout):
    name = f"n{source_port}"
    converse(f"NICK {name}\r\nUSER lab 0 * :lab\r\n", f"001 {name}")(
        stand, server, program, source_port, port, timeout)


MOSQUITTO = "listener {port} ::\nallow_anonymous true\nuser mosquitto\n"
XMPP = ("<?xml version='1.0'?><stream:stream to='localhost' xmlns='jabber:client' "
        "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
PROSODY = """
daemonize = false
pidfile = "{home}/run/pid"
data_path = "{home}/run"
prosody_user = "prosody"
log = "*console"
c2s_ports = { {port} }
s2s_ports = { }
modules_disabled = { "s2s", "posix" }
VirtualHost "localhost"
"""
NGIRCD = """
[Global]
Name=irc.lab
Info=lab
Listen=::
Ports={port}
ServerUID=nobody
ServerGID=nogroup
[Limits]
MaxConnectionsIP=0
[Options]
PAM=no
Ident=no
DNS=no
"""
INSPIRCD = """
<server name="irc.lab" description="lab" network="lab" id="1AA">
<admin name="a" nick="a" email="a@lab">
<bind address="::" port="{port}" type="clients">
<connect name="main" allow="*" resolvehostnames="no" useident="no" globalmax="99" localmax="99">
<pid file="{home}/run/pid">
<log method="file" type="*" level="default" target="{home}/run/log">
"""
ZMQ_GREETING = bytes.fromhex("ff00000000000000017f")
ZMQ = """
import zmq
socket = zmq.Context().socket(zmq.REP)
socket.setsockopt(zmq.IPV6, 1)
socket.bind("tcp://[::]:{port}")
while True:
    socket.send(socket.recv())
"""

QUASSEL = bytes.fromhex("42b33f00" "80000002")
ZNC = """
Version = 1.8.2
<Listener lab>
    Port = {port}
    IPv4 = false
    IPv6 = true
    SSL = false
</Listener>
<User lab>
    Pass = plain#lab
    Admin = true
</User>
"""


def znc(home, port, variables):
    owned(home, "nobody")
    (home / "configs").mkdir()
    command = with_file("configs/znc.conf", ZNC, *as_user("nobody", "znc", "-f", "-d", "{home}"))(
        home, port, variables)
    shutil.chown(home / "configs/znc.conf", "nobody")
    return command


SERVERS = (
    named("mosquitto", calls_with("mosquitto_pub", "-h", "{server}", "-p", "{port}", "-t", "lab",
                                 "-m", "hello", "-q", "1"),
          with_file("conf", MOSQUITTO, "mosquitto", "-c", "{home}/conf"), "mosquitto"),
    named("prosody", converse(XMPP, "stream:"),
          with_file("conf.lua", PROSODY, "setpriv", "--reuid=prosody", "--regid=prosody",
                    "--clear-groups", "prosody", "--config", "{home}/conf.lua", "-F",
                    owner="prosody"), "prosody"),
    named("ngircd", talk_irc, with_file("conf", NGIRCD, "ngircd", "-n", "-f", "{home}/conf"),
          "ngircd"),
    named("inspircd", talk_irc,
          with_file("conf", INSPIRCD, "setpriv", "--reuid=nobody", "--regid=nogroup",
                    "--clear-groups", "inspircd", "--nofork", "--config", "{home}/conf",
                    owner="nobody"), "inspircd"),
    named("znc", WEB, znc, "znc"),
    named("quasselcore", converse(QUASSEL, QUASSEL[-4:].replace(b"\x80", b"\0")),
          run("quasselcore", "-c", "{home}", "--listen", "::", "-p", "{port}"), "quasselcore"),
    named("ZeroMQ", converse(None, ZMQ_GREETING),
          with_file("main.py", ZMQ, servers.PYTHON, "{home}/main.py")),
    named("nats-server", converse(None, "INFO"),
          run("nats-server", "-a", "::", "-p", "{port}"), "nats-server",
          cannot=GO),
)
