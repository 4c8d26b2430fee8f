"""Further servers from Debian by their names: languages and event loops that few use, and daemons that
come by their sockets in ways of their own."""

import shutil
import ssl
import subprocess

import servers
from by_name import (HTTP, PASSIVE, Chosen, Named, converse, openvpn_keys, owned, ports_of_the_peer,
                     run_on_peer, talk_ftp, written)
from by_name_languages import TCP_DNS, named, talk_irc
from by_name_more import DNS_ANSWER, DNS_QUERY, LINE, UDP, ask, run, with_file
from topology import SERVER

TCL = """
proc echo {peer} {
    if {[gets $peer line] < 0} { close $peer } else { puts $peer $line }
}
proc serve {peer address port} {
    fconfigure $peer -buffering line -translation lf
    fileevent $peer readable [list echo $peer]
}
socket -server serve {port}
vwait forever
"""
LUA = """
local socket = require("socket")
local listener = assert(socket.tcp6())
listener:setoption("reuseaddr", true)
assert(listener:bind("::", {port}))
assert(listener:listen(5))
while true do
    local peer = listener:accept()
    peer:send((peer:receive() or "") .. "\\n")
    peer:close()
end
"""
LUA_UDP = """
local one = assert(require("socket").udp6())
assert(one:setsockname("::", {port}))
while true do
    local data, address, port = one:receivefrom()
    one:sendto(data, address, port)
end
"""
GUILE = """
(use-modules (web server))
(define listener (socket AF_INET6 SOCK_STREAM 0))
(setsockopt listener SOL_SOCKET SO_REUSEADDR 1)
(bind listener AF_INET6 (inet-pton AF_INET6 "::") {port})
(listen listener 128)
(run-server (lambda (request body) (values '((content-type . (text/plain))) "in"))
            'http (list #:socket listener))
"""
LISP = """
(require :sb-bsd-sockets)
(use-package :sb-bsd-sockets)
(let ((listener (make-instance 'inet6-socket :type :stream :protocol :tcp)))
  (setf (sockopt-reuse-address listener) t)
  (socket-bind listener (make-inet6-address "::") {port})
  (socket-listen listener 5)
  (loop (let ((stream (socket-make-stream (socket-accept listener) :input t :output t)))
          (write-line (read-line stream) stream)
          (close stream))))
"""
OCAML = """
let serve from into = output_string into (input_line from ^ "\\n"); flush into
let () = Unix.establish_server serve (Unix.ADDR_INET (Unix.inet6_addr_any, {port}))
"""
MOJO = 'use Mojolicious::Lite; get "/" => {text => "in"}; app->start'
PSGI = 'sub { [200, ["Content-Type" => "text/plain"], ["in"]] }'
ZMQ = """
import zmq
socket = zmq.Context().socket(zmq.REP)
socket.setsockopt(zmq.IPV6, 1)
socket.bind("tcp://[::]:{port}")
while True:
    socket.send(socket.recv())
"""
ZMQ_GREETING = bytes.fromhex("ff00000000000000017f")
H2O = """
user: nobody
num-threads: 2
listen:
  host: "::"
  port: {port}
hosts:
  default:
    paths:
      /:
        file.dir: {home}
"""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
HTTP2_SETTINGS = bytes.fromhex("040000000000")
SER2NET = """
connection: &lab
  accepter: tcp,::,{port}
  connector: echo
  options:
    kickolduser: true
"""
MUNIN = """
log_file {home}/log
pid_file {home}/pid
host *
port {port}
user root
group root
allow .*
host_name lab
"""
INSPIRCD = """
<server name="irc.lab" description="lab" network="lab" id="1AA">
<admin name="a" nick="a" email="a@lab">
<bind address="::" port="{port}" type="clients">
<connect name="main" allow="*" resolvehostnames="no" useident="no" globalmax="99" localmax="99">
<pid file="{home}/run/pid">
<log method="file" type="*" level="default" target="{home}/run/log">
"""
PROFTPD = """
ServerName lab
ServerType standalone
UseIPv6 on
Port {port}
User nobody
Group nogroup
PidFile {home}/pid
ScoreboardFile {home}/score
DelayEngine off
UseReverseDNS off
UseFtpUsers off
PassivePorts %d %d
<Anonymous {home}/files>
User nobody
Group nogroup
UserAlias anonymous nobody
RequireValidShell off
</Anonymous>
"""

I2PD = """
log = none
[http]
enabled = true
address = ::
port = {port}
strictheaders = false
[httpproxy]
enabled = false
[socksproxy]
enabled = false
[sam]
enabled = false
"""


def tls(stand, server, program, source_port, port, timeout):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with server.client(stand, server.family, source_port, port, timeout) as client:
        context.wrap_socket(client.sock).close()


def with_key(*words):
    """{key} and {certificate} stand for theirs."""
    def make(home, port, variables):
        keys = openvpn_keys()
        return [word.replace("{key}", str(keys / "server.key"))
                .replace("{certificate}", str(keys / "server.crt"))
                for word in run(*words)(home, port, variables)]
    return make


def stunnel(home, port, variables):
    keys = openvpn_keys()
    return with_file("conf", f"""
        foreground = yes
        pid =
        [lab]
        accept = :::{port}
        exec = /bin/cat
        cert = {keys}/server.crt
        key = {keys}/server.key
    """, "stunnel4", "{home}/conf")(home, port, variables)


def proftpd(home, port, variables):
    written(owned(home / "files", "nobody") / "hello.txt", "hello from the server\n")
    first, last = port + 20000, port + 20000 + PASSIVE - 1
    return with_file("conf", PROFTPD % (first, last), "proftpd", "-n", "-c", "{home}/conf")(
        home, port, variables)


def tincd(home, port, _):
    net = home / "net"
    (net / "hosts").mkdir(parents=True)
    written(net / "tinc.conf", "Name = a\nDeviceType = dummy\nAddressFamily = ipv6\n")
    written(net / "hosts/a", f"Port = {port}\n")
    subprocess.run(["tincd", "-c", net, "-K2048"], check=True, capture_output=True,
                   stdin=subprocess.DEVNULL)
    shutil.copy(net / "hosts/a", net / "hosts/b")
    return ["tincd", "-c", net, "-D", f"--pidfile={home}/pid"]


def qemu_nbd(home, port, _):
    written(home / "disk", "x" * 4096)
    return ["qemu-nbd", "-t", "-e", "5", "-f", "raw", "-b", "::", "-p", port, home / "disk"]


def talk_iperf2(stand, server, program, source_ports, port, timeout):
    with ports_of_the_peer(stand, source_ports):
        said = run_on_peer(stand, ["iperf", "-V", "-c", SERVER[6], "-p", port, "-n", "20K"],
                           timeout + 5)
    if "Bytes" not in said:
        raise ConnectionError(said[-300:])


def pdns(*options):
    return with_file("zones", "", "pdns_server", "--config-dir={home}", "--socket-dir={home}",
                     "--daemon=no", "--guardian=no", "--launch=bind", "--bind-config={home}/zones",
                     "--local-address=::", "--local-port={port}", *options)


UNUSUAL = (
    named("Tcl", converse(*LINE), with_file("main.tcl", TCL, "tclsh", "{home}/main.tcl"), "tclsh"),
    named("LuaSocket", converse(*LINE), with_file("main.lua", LUA, "lua5.4", "{home}/main.lua"),
          "lua5.4"),
    named("LuaSocket UDP", ask(b"hello", b"hello"),
          with_file("main.lua", LUA_UDP, "lua5.4", "{home}/main.lua"), "lua5.4", **UDP),
    named("Guile", HTTP, with_file("main.scm", GUILE, "guile", "--no-auto-compile", "{home}/main.scm"),
          "guile"),
    named("SBCL", converse(*LINE), with_file("main.lisp", LISP, "sbcl", "--script", "{home}/main.lisp"),
          "sbcl"),
    named("OCaml", converse(*LINE), with_file("main.ml", OCAML, "ocaml", "unix.cma", "{home}/main.ml"),
          "ocaml"),
    named("starman", HTTP, with_file("app.psgi", PSGI, "starman", "--listen", ":{port}",
                                     "--workers", "2", "--user", "nobody", "--group", "nogroup",
                                     "{home}/app.psgi"), "starman"),
    *(named(f"Mojolicious {how}", HTTP,
            run("perl", "-e", MOJO, how, "-l", "http://[::]:{port}", "-m", "production", *more),
            "mojo")
      for how, *more in (("daemon",), ("prefork", "-w", "2", "-P", "{home}/pid"))),
    named("ZeroMQ", converse(None, ZMQ_GREETING),
          with_file("main.py", ZMQ, servers.PYTHON, "{home}/main.py")),
    named("twistd web", HTTP, run("twistd3", "--pidfile={home}/pid", "--logfile={home}/log", "web",
                                  "--listen=tcp6:{port}", "--path={home}"), "twistd3"),
    named("h2o", HTTP, with_file("conf", H2O, "h2o", "-c", "{home}/conf"), "h2o"),
    named("nghttpd", converse(HTTP2_PREFACE, HTTP2_SETTINGS),
          run("nghttpd", "--no-tls", "-n", "2", "-d", "{home}", "-a", "::", "{port}"), "nghttpd"),
    named("stunnel", tls, stunnel, "stunnel4"),
    named("gnutls-serv", tls, with_key("gnutls-serv", "--echo", "-p", "{port}", "--x509keyfile",
                                       "{key}", "--x509certfile", "{certificate}"), "gnutls-serv"),
    named("openssl s_server", tls, with_key("openssl", "s_server", "-6", "-accept", "{port}", "-www",
                                            "-key", "{key}", "-cert", "{certificate}"), "openssl"),
    named("ser2net", converse(*LINE),
          with_file("conf.yaml", SER2NET, "ser2net", "-n", "-c", "{home}/conf.yaml"), "ser2net"),
    named("munin-node", converse(None, "# munin node at"),
          with_file("conf", MUNIN, "munin-node", "--config", "{home}/conf", "--foreground"),
          "munin-node"),
    named("inspircd", talk_irc,
          with_file("conf", INSPIRCD, "setpriv", "--reuid=nobody", "--regid=nogroup",
                    "--clear-groups", "inspircd", "--nofork", "--config", "{home}/conf",
                    owner="nobody"), "inspircd"),
    named("qemu-nbd", converse(None, "NBDMAGIC"), qemu_nbd, "qemu-nbd"),
    named("Xvnc", converse(None, "RFB 003."),
          run("Xvnc", ":{port}", "-rfbport", "{port}", "-SecurityTypes", "None", "-nolisten", "local"), "Xvnc"),
    named("snapserver", HTTP,
          run("snapserver", "--http.port={port}", "--http.bind_to_address=::", "--tcp.enabled=false",
              "--stream.port=2{port}", "--server.datadir={home}", "--server.user=", "--config=/dev/null",
              "--logging.sink=null"), "snapserver"),
    named("tincd", converse("0 b 17\n", "0 a 17"), tincd, "tincd"),
    named("nbdkit", converse(None, "NBDMAGIC"),
          run("nbdkit", "-f", "-i", "::", "-p", "{port}", "-u", "nobody", "-g", "nogroup", "null", "1M"),
          "nbdkit"),
    named("i2pd", HTTP, with_file("conf", I2PD, "i2pd", "--conf={home}/conf", "--datadir={home}",
                                  "--port=2{port}"), "i2pd"),
    named("pdns_server", ask(DNS_QUERY, DNS_ANSWER), pdns(), "pdns_server", **UDP),
    named("pdns_server reuseport", ask(DNS_QUERY, DNS_ANSWER),
          pdns("--reuseport=yes", "--receiver-threads=3"), "pdns_server", **UDP),
    named("pdns_server TCP", converse(TCP_DNS, DNS_ANSWER), pdns(), "pdns_server"),
    Chosen("proftpd passive", talk_ftp, make=proftpd, tools=("proftpd", "curl"), ports_for_a_call=4),
    Chosen("iperf", talk_iperf2, make=run("iperf", "-s", "-V", "-p", "{port}"), tools=("iperf",),
           ports_for_a_call=2),
)
