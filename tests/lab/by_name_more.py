"""Further servers from Debian by their names: those that are made by a line or two, and languages with
what comes with them to serve by."""

import subprocess

import servers
from by_name import HTTP, Named, converse, owned, written
from servers import PYTHON

DNS_QUERY = bytes.fromhex("2a2a01000001000000000000036c61620000010001")
DNS_ANSWER = DNS_QUERY[:2]
STUN_QUERY = bytes.fromhex("000100002112a442") + b"synergy-test"
STUN_ANSWER = bytes.fromhex("0101")
NTP_QUERY = b"\x23" + bytes(47)
SNMP_QUERY = bytes.fromhex("302602010104067075626c6963a01902012a020100020100300e300c06082b060102010105000500")
MQTT_CONNECT = bytes.fromhex("100f00044d51545404020000") + b"\x00\x03lab"
POSTGRES_SSL = bytes.fromhex("0000000804d2162f")
MUMBLE_PING = bytes(4) + b"synergy!"
LINE = ("hello\n", "hello\n")


def ask(question, answer):
    """By datagrams, which may be lost."""
    def talk(stand, server, program, source_port, port, timeout):
        with server.client(stand, server.family, source_port, port, timeout) as client:
            for tried in range(int(timeout / 0.3)):
                client.sock.send(question)
                client.sock.settimeout(0.3)
                try:
                    if answer in client.sock.recv(65536):
                        return
                except TimeoutError:
                    continue
            raise TimeoutError(f"no answer to {tried + 1} questions")
    return talk


def run(*words):
    """`{home}` and `{port}` stand for themselves."""
    def make(home, port, _):
        return [str(word).replace("{home}", str(home)).replace("{port}", str(port))
                for word in words]
    return make


def with_file(name, text, *words, owner=None):
    """The same with a file below `home`."""
    def make(home, port, variables):
        if owner:
            owned(home / "run", owner)
        written(home / name, text.replace("{home}", str(home)).replace("{port}", str(port)))
        return run(*words)(home, port, variables)
    return make


JAVA_SOCKET = """
import java.io.*;
import java.net.*;
class Main {
    public static void main(String[] arguments) throws IOException {
        ServerSocket listener = new ServerSocket({port});
        for (;;)
            try (Socket connection = listener.accept()) {
                String line = new BufferedReader(
                    new InputStreamReader(connection.getInputStream())).readLine();
                connection.getOutputStream().write((line + "\\n").getBytes());
            }
    }
}
"""

JAVA_HTTP = """
import com.sun.net.httpserver.HttpServer;
import java.net.*;
class Main {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress({port}), 0);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, 3);
            exchange.getResponseBody().write("in\\n".getBytes());
            exchange.close();
        });
        server.start();
    }
}
"""

ERLANG = """
-module(lab).
-export([main/0]).
main() ->
    {ok, Listener} = gen_tcp:listen({port}, [binary, inet6, {packet, line}, {active, false}]),
    loop(Listener).
loop(Listener) ->
    {ok, Connection} = gen_tcp:accept(Listener),
    {ok, Line} = gen_tcp:recv(Connection, 0),
    gen_tcp:send(Connection, Line),
    gen_tcp:close(Connection),
    loop(Listener).
"""

ERLANG_UDP = """
-module(lab).
-export([main/0]).
main() ->
    {ok, Socket} = gen_udp:open({port}, [binary, inet6, {active, true}]),
    loop(Socket).
loop(Socket) ->
    receive {udp, Socket, Address, Port, Data} -> gen_udp:send(Socket, Address, Port, Data) end,
    loop(Socket).
"""


def erlang(text):
    return with_file("lab.erl", text, "sh", "-c",
                     "cd {home} && erlc lab.erl && exec erl -noinput -noshell -s lab main")


NODE = """require("http").createServer((_, answer) => answer.end("in")).listen({port}, "::")"""
NODE_TCP = """require("net").createServer(peer => peer.pipe(peer)).listen({port}, "::")"""
NODE_UDP = """
const socket = require("dgram").createSocket("udp6");
socket.on("message", (data, from) => socket.send(data, from.port, from.address));
socket.bind({port});
"""
NODE_CLUSTER = """
const cluster = require("cluster");
if (cluster.isPrimary)
    for (let i = 0; i < 3; i++)
        cluster.fork();
else
    require("http").createServer((_, answer) => answer.end("in")).listen({port}, "::");
"""
PERL = """
use HTTP::Daemon;
$SIG{PIPE} = "IGNORE";
my $daemon = HTTP::Daemon->new(LocalAddr => "::", LocalPort => {port}, ReuseAddr => 1) || die $!;
while (my $peer = $daemon->accept) {
    while (my $request = $peer->get_request) {
        $peer->send_response(200);
    }
    $peer->close;
}
"""
RUBY = """require "webrick"
WEBrick::HTTPServer.new(Port: {port}, BindAddress: "::", DocumentRoot: "{home}").start"""
RACK = """run ->(_) { [200, {"Content-Type" => "text/plain"}, ["in"]] }\n"""
ASYNCIO = """
import asyncio
async def serve(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
async def main():
    await (await asyncio.start_server(serve, "::", {port})).serve_forever()
asyncio.run(main())
"""

UNBOUND = """
server:
    interface: ::0@{port}
    port: {port}
    access-control: ::0/0 refuse_non_local
    do-daemonize: no
    use-syslog: no
    chroot: ""
    directory: "{home}"
    pidfile: ""
    username: "unbound"
    num-threads: 1
remote-control:
    control-enable: no
"""
UNBOUND_THREADS = UNBOUND.replace("num-threads: 1", "num-threads: 2\n    so-reuseport: yes")
NAMED = """
options {
    directory "{home}/run";
    pid-file none;
    listen-on { none; };
    listen-on-v6 port {port} { any; };
    allow-query { any; };
    recursion no;
    session-keyfile none;
};
controls { };
"""
KNOT = """
server:
    listen: ::@{port}
    rundir: {home}/run
    user: knot:knot
database:
    storage: {home}/run
"""
LIGHTTPD = """
server.document-root = "{home}"
server.use-ipv6 = "enable"
server.bind = "::"
server.port = {port}
server.username = "www-data"
server.groupname = "www-data"
"""
TINYPROXY = "User nobody\nGroup nogroup\nPort {port}\nListen ::\nTimeout 60\nMaxClients 20\n"
MOSQUITTO = "listener {port} ::\nallow_anonymous true\nuser mosquitto\n"
MURMUR = "host=::\nport={port}\ndatabase={home}/run/db\nuname=mumble-server\nallowping=true\n"
RSYNC = "pid file = {home}/pid\nuse chroot = no\n[lab]\npath = {home}\n"

def as_user(user, *words):
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words)


POSTGRES = "/usr/lib/postgresql/15/bin/"


def postgres(home, port, _):
    owned(home / "run", "postgres")
    subprocess.run([*as_user("postgres", POSTGRES + "initdb"), "-D", home / "run/data", "-N"],
                   check=True, capture_output=True)
    return [*as_user("postgres", POSTGRES + "postgres"), "-D", home / "run/data", "-p", port,
            "-c", "listen_addresses=::", "-c", f"unix_socket_directories={home}/run"]


def mariadb(home, port, _):
    owned(home / "run", "mysql")
    subprocess.run(["mariadb-install-db", "--no-defaults", "--user=mysql",
                    f"--datadir={home}/run/data", "--skip-test-db"], check=True,
                   capture_output=True)
    return ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={home}/run/data",
            f"--port={port}", "--bind-address=::", f"--socket={home}/run/socket",
            f"--pid-file={home}/run/pid"]


def dropbear(home, port, _):
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", home / "key"], check=True,
                   capture_output=True)
    return ["dropbear", "-F", "-E", "-r", home / "key", "-p", f"[::]:{port}", "-P", home / "pid"]


UDP = {"transport": "udp", "client": servers.clients.udp_client}

MORE = (
    Named("Java ServerSocket", converse(*LINE),
          make=with_file("Main.java", JAVA_SOCKET, "java", "{home}/Main.java"), tools=("java",)),
    Named("Java HttpServer", HTTP,
          make=with_file("Main.java", JAVA_HTTP, "java", "{home}/Main.java"), tools=("java",)),
    Named("Erlang gen_tcp", converse(*LINE), make=erlang(ERLANG), tools=("erl", "erlc")),
    Named("Erlang gen_udp", ask(b"hello", b"hello"), make=erlang(ERLANG_UDP),
          tools=("erl", "erlc"), **UDP),
    Named("Node.js http", HTTP, make=run("node", "-e", NODE), tools=("node",)),
    Named("Node.js net", converse(*LINE), make=run("node", "-e", NODE_TCP), tools=("node",)),
    Named("Node.js cluster", HTTP, make=with_file("main.js", NODE_CLUSTER, "node", "{home}/main.js"),
          tools=("node",)),
    Named("Node.js dgram", ask(b"hello", b"hello"), make=run("node", "-e", NODE_UDP),
          tools=("node",), **UDP),
    Named("Ruby WEBrick", HTTP, make=run("ruby", "-e", RUBY), tools=("ruby",)),
    Named("puma", HTTP, make=with_file("config.ru", RACK, "puma", "-q", "-b", "tcp://[::]:{port}",
                                       "{home}/config.ru"), tools=("puma",)),
    Named("puma -w 2", HTTP,
          make=with_file("config.ru", RACK, "puma", "-q", "-w", "2", "-b", "tcp://[::]:{port}",
                         "{home}/config.ru"), tools=("puma",)),
    Named("php -S", HTTP, make=run("php", "-S", "[::]:{port}", "-t", "{home}"), tools=("php",)),
    Named("Perl HTTP::Daemon", HTTP, make=run("perl", "-e", PERL), tools=("perl",)),
    Named("Python asyncio", converse(*LINE), make=run(PYTHON, "-c", ASYNCIO)),
    Named("mosquitto", converse(MQTT_CONNECT, b"\x20\x02\x00\x00"),
          make=with_file("conf", MOSQUITTO, "mosquitto", "-c", "{home}/conf"),
          tools=("mosquitto",)),
    Named("redis-server", converse("PING\r\n", "+PONG"),
          make=run("redis-server", "--port", "{port}", "--bind", "::", "--protected-mode", "no",
                   "--dir", "{home}", "--save", ""), tools=("redis-server",)),
    Named("memcached", converse("version\r\n", "VERSION"),
          make=run("memcached", "-u", "nobody", "-p", "{port}", "-l", "::"), tools=("memcached",)),
    Named("postgres", converse(POSTGRES_SSL, b"N"), make=postgres, tools=(POSTGRES + "postgres",)),
    Named("mariadbd", converse(None, "MariaDB"), make=mariadb, tools=("mariadbd",)),
    Named("dropbear", converse("SSH-2.0-lab\r\n", "SSH-2.0-dropbear"), make=dropbear,
          tools=("dropbear",)),
    Named("lighttpd", HTTP, make=with_file("conf", LIGHTTPD, "lighttpd", "-D", "-f", "{home}/conf"),
          tools=("lighttpd",)),
    Named("tinyproxy", HTTP, make=with_file("conf", TINYPROXY, "tinyproxy", "-d", "-c",
                                            "{home}/conf"), tools=("tinyproxy",)),
    Named("unbound", ask(DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", UNBOUND, "unbound", "-c", "{home}/conf"), tools=("unbound",),
          **UDP),
    Named("unbound TCP", converse(b"\x00\x15" + DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", UNBOUND, "unbound", "-c", "{home}/conf"), tools=("unbound",)),
    Named("unbound, 2 threads", ask(DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", UNBOUND_THREADS, "unbound", "-c", "{home}/conf"),
          tools=("unbound",), **UDP),
    Named("unbound TCP, 2 threads", converse(b"\x00\x15" + DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", UNBOUND_THREADS, "unbound", "-c", "{home}/conf"),
          tools=("unbound",)),
    Named("named", ask(DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", NAMED, "named", "-f", "-u", "bind", "-c", "{home}/conf",
                         owner="bind"), tools=("named",), **UDP),
    Named("named TCP", converse(b"\x00\x15" + DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", NAMED, "named", "-f", "-u", "bind", "-c", "{home}/conf",
                         owner="bind"), tools=("named",)),
    Named("dnsmasq", ask(DNS_QUERY, DNS_ANSWER),
          make=run("dnsmasq", "-k", "-p", "{port}", "-C", "/dev/null", "-R", "-u", "nobody", "-x",
                   "{home}/pid"), tools=("dnsmasq",), **UDP),
    Named("dnsmasq TCP", converse(b"\x00\x15" + DNS_QUERY, DNS_ANSWER),
          make=run("dnsmasq", "-k", "-p", "{port}", "-C", "/dev/null", "-R", "-u", "nobody", "-x",
                   "{home}/pid"), tools=("dnsmasq",)),
    Named("knotd", ask(DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", KNOT, "knotd", "-c", "{home}/conf", owner="knot"),
          tools=("knotd",), **UDP),
    Named("knotd TCP", converse(b"\x00\x15" + DNS_QUERY, DNS_ANSWER),
          make=with_file("conf", KNOT, "knotd", "-c", "{home}/conf", owner="knot"),
          tools=("knotd",)),
    Named("turnserver", ask(STUN_QUERY, STUN_ANSWER),
          make=run("turnserver", "-n", "-p", "{port}", "-L", "::", "--no-cli", "--no-tls",
                   "--no-dtls", "-l", "{home}/log", "--pidfile", "{home}/pid", "-b", "{home}/db",
                   "-E", "2001:db8:a::11"), tools=("turnserver",), **UDP),
    Named("turnserver TCP", converse(STUN_QUERY, STUN_ANSWER),
          make=run("turnserver", "-n", "-p", "{port}", "-L", "::", "--no-cli", "--no-tls",
                   "--no-dtls", "-l", "{home}/log", "--pidfile", "{home}/pid", "-b", "{home}/db",
                   "-E", "2001:db8:a::11"), tools=("turnserver",)),
    Named("murmurd", ask(MUMBLE_PING, b"synergy!"),
          make=with_file("conf", MURMUR, "murmurd", "-fg", "-ini", "{home}/conf",
                         owner="mumble-server"), tools=("murmurd",), **UDP),
    Named("transmission-daemon", HTTP,
          make=run("transmission-daemon", "-f", "-g", "{home}", "-p", "{port}", "-r", "::",
                   "--no-auth"), tools=("transmission-daemon",)),
    Named("rsync --daemon", converse(None, "@RSYNCD"),
          make=with_file("conf", RSYNC, "rsync", "--daemon", "--no-detach", "--port={port}",
                         "--address=::", "--config={home}/conf"), tools=("rsync",)),
    Named("git daemon", converse("0027git-upload-pack /lab\0host=lab.example\0", "ERR"),
          make=run("git", "daemon", "--listen=::", "--port={port}", "--base-path={home}",
                   "--export-all", "--reuseaddr"), tools=("git",)),
    Named("chronyd", ask(NTP_QUERY, b"\x24"),
          make=with_file("conf", "port {port}\nallow ::/0\nlocal stratum 5\ncmdport 0\n"
                         "bindcmdaddress /\npidfile {home}/pid\ndriftfile {home}/drift\nuser _chrony\n",
                         "chronyd", "-x", "-n", "-f", "{home}/conf"), tools=("chronyd",), **UDP),
    Named("snmpd", ask(SNMP_QUERY, b"public"),
          make=with_file("conf", "agentAddress udp6:{port}\nrocommunity6 public\n", "snmpd", "-f",
                         "-C", "-c", "{home}/conf", "-p", "{home}/pid", "-u", "Debian-snmp", "-Lo"),
          tools=("snmpd",), **UDP),
)
