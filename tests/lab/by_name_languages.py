"""Further servers from Debian by their names: what languages bring to serve with, each in the ways that
processes and threads come by its listener, and daemons that need a few lines of configuration."""

from by_name import HTTP, Named, converse
from by_name_more import (ASYNCIO, DNS_ANSWER, DNS_QUERY, LINE, POSTGRES_SSL, RACK, UDP, ask, run,
                          with_file)
from servers import PYTHON

GET_VALUES, VALUES = bytes((1, 9, 0, 0, 0, 0, 0, 0)), bytes((1, 10))  # of FastCGI
ANY_METHOD, NO_METHOD = b"\x05\x01\x00", b"\x05\x00"  # of SOCKS

WSGI = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"in"]
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"):
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})
"""
TWISTED = """
from twisted.internet import endpoints, protocol, reactor
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
factory = protocol.Factory()
factory.protocol = Echo
endpoints.serverFromString(reactor, "tcp:{port}:interface=\\\\:\\\\:").listen(factory)
reactor.run()
"""
TWISTED_UDP = """
from twisted.internet import protocol, reactor
class Echo(protocol.DatagramProtocol):
    def datagramReceived(self, data, address):
        self.transport.write(data, address)
reactor.listenUDP({port}, Echo(), interface="::")
reactor.run()
"""
TORNADO = """
import asyncio, tornado.httpserver, tornado.netutil, tornado.process, tornado.web
class Main(tornado.web.RequestHandler):
    def get(self):
        self.write("in")
sockets = tornado.netutil.bind_sockets({port}, "::")
tornado.process.fork_processes(2)
async def main():
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Main)]))
    server.add_sockets(sockets)
    await asyncio.Event().wait()
asyncio.run(main())
"""
GEVENT = """
from gevent import monkey
monkey.patch_all()
from gevent.pywsgi import WSGIServer
def app(environ, start):
    start("200 OK", [])
    return [b"in"]
WSGIServer(("::", {port}), app).serve_forever()
"""
GEVENT_UDP = """
from gevent.server import DatagramServer
class Echo(DatagramServer):
    def handle(self, data, address):
        self.socket.sendto(data, address)
Echo("[::]:{port}").serve_forever()
"""
UVLOOP = "import uvloop\nuvloop.install()\n" + ASYNCIO
UVLOOP_UDP = """
import asyncio, uvloop
uvloop.install()
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)
async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Echo, ("::", {port}))
    await asyncio.Event().wait()
asyncio.run(main())
"""
AIOHTTP = """
from aiohttp import web
async def hello(request):
    return web.Response(text="in")
app = web.Application()
app.add_routes([web.get("/", hello)])
web.run_app(app, host="::", port={port}, reuse_port=%s)
"""
SOCKETSERVER = """
import socket, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
class Server(socketserver.%s):
    address_family = socket.AF_INET6
Server(("::", {port}), Echo).serve_forever()
"""
CONNECTION_IS_SENT = """
import multiprocessing, socket
def serve(pipe):
    while True:
        connection = pipe.recv()
        connection.sendall(connection.recv(100))
        connection.close()
if __name__ == "__main__":
    multiprocessing.set_start_method("%s")
    listener = socket.create_server(("::", {port}), family=socket.AF_INET6)
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=serve, args=(theirs,), daemon=True).start()
    while True:
        with listener.accept()[0] as connection:
            ours.send(connection)
"""
LISTENER_IS_SENT = """
import multiprocessing, socket
def serve(listener):
    while True:
        with listener.accept()[0] as connection:
            connection.sendall(connection.recv(100))
if __name__ == "__main__":
    multiprocessing.set_start_method("%s")
    listener = socket.create_server(("::", {port}), family=socket.AF_INET6)
    workers = [multiprocessing.Process(target=serve, args=(listener,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    listener.close()
    for worker in workers:
        worker.join()
"""
NET_SERVER = """
package Lab;
use base "Net::Server::%s";
sub process_request {
    my $line = <STDIN>;
    print $line;
}
Lab->run(port => {port}, host => "::", ipv => "6", user => "nobody", group => "nogroup",
         log_level => 0);
"""
JAVA = """
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
class Main {
    public static void main(String[] arguments) throws Exception {
%s
    }
}
"""
SELECTOR = JAVA % """
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress({port}));
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        for (;;) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                SocketChannel peer =
                    key.isAcceptable() ? listener.accept() : (SocketChannel)key.channel();
                if (key.isAcceptable() && peer != null) {
                    peer.configureBlocking(false);
                    peer.register(selector, SelectionKey.OP_READ);
                } else if (peer != null) {
                    ByteBuffer data = ByteBuffer.allocate(100);
                    if (peer.read(data) < 0)
                        peer.close();
                    else
                        peer.write(data.flip());
                }
            }
            selector.selectedKeys().clear();
        }"""
ASYNCHRONOUS = JAVA % """
        var listener = AsynchronousServerSocketChannel.open().bind(new InetSocketAddress({port}));
        for (;;)
            try (var peer = listener.accept().get()) {
                ByteBuffer data = ByteBuffer.allocate(100);
                peer.read(data).get();
                peer.write(data.flip()).get();
            }"""
DATAGRAMS = JAVA % """
        var socket = DatagramChannel.open().bind(new InetSocketAddress({port}));
        for (;;) {
            ByteBuffer data = ByteBuffer.allocate(100);
            SocketAddress from = socket.receive(data);
            socket.send(data.flip(), from);
        }"""

NSD = """
server:
    ip-address: ::@{port}
    username: nsd
    zonesdir: "{home}"
    pidfile: ""
    xfrdfile: ""
    zonelistfile: "{home}/run/zones"
    database: ""
    server-count: 2
    reuseport: %s
remote-control:
    control-enable: no
"""
PHP_FPM = """
[global]
error_log={home}/log
[www]
user=www-data
group=www-data
listen=[::]:{port}
pm=static
pm.max_children=2
"""
DANTE = """
logoutput: {home}/log
internal: :: port = {port}
external: 2001:db8:a::11
clientmethod: none
socksmethod: none
user.unprivileged: nobody
client pass { from: ::/0 to: ::/0 }
socks pass { from: ::/0 to: ::/0 }
"""
ICECAST = """<icecast><limits><sources>2</sources></limits><authentication>
<source-password>a</source-password><admin-password>b</admin-password></authentication>
<hostname>lab</hostname><listen-socket><port>{port}</port><bind-address>::</bind-address>
</listen-socket><paths><logdir>{home}/run</logdir><webroot>/usr/share/icecast2/web</webroot>
<adminroot>/usr/share/icecast2/admin</adminroot></paths><security><chroot>0</chroot>
<changeowner><user>nobody</user><group>nogroup</group></changeowner></security></icecast>"""
PGBOUNCER = """
[databases]
x=host=127.0.0.1
[pgbouncer]
listen_addr=::
listen_port={port}
unix_socket_dir=
auth_type=any
logfile={home}/run/log
user=nobody
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
NBD = """
[generic]
user=nobody
group=nogroup
port={port}
listenaddr=::
[x]
exportname=/etc/hostname
readonly=true
"""
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
XMPP = ("<?xml version='1.0'?><stream:stream to='localhost' xmlns='jabber:client' "
        "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")


def talk_irc(stand, server, program, source_port, port, timeout):
    name = f"n{source_port}"
    converse(f"NICK {name}\r\nUSER lab 0 * :lab\r\n", f"001 {name}")(
        stand, server, program, source_port, port, timeout)


def named(name, talk, make, *tools, **more):
    return Named(name, talk, make=make, tools=tools, **more)


def python(text):
    return with_file("main.py", text, PYTHON, "{home}/main.py")


def java(text):
    return with_file("Main.java", text, "java", "{home}/Main.java")


def application(*words):
    """Of Python's, in the directory that it is in."""
    return with_file("app.py", WSGI, "sh", "-c", 'cd {home} && exec "$@"', "sh", *words)


def uwsgi(*words):
    return application("uwsgi", "--plugin", "python3", "--http-socket", "[::]:{port}",
                       "--wsgi-file", "app.py", *words)


def nsd(reuseport):
    return with_file("conf", NSD % reuseport, "nsd", "-d", "-c", "{home}/conf", owner="nsd")


def unicorn():
    return with_file("config.ru", RACK, "sh", "-c",
                     "printf \"listen '[::]:{port}'\\nworker_processes 2\\n\" >{home}/conf.rb; "
                     "exec unicorn -c {home}/conf.rb {home}/config.ru")


TCP_DNS = b"\x00\x15" + DNS_QUERY
ECHO = b"hello"

LANGUAGES = (
    *(named(f"nsd{more}", ask(DNS_QUERY, DNS_ANSWER), nsd(how), "nsd", **UDP)
      for more, how in (("", "no"), (" reuseport", "yes"))),
    *(named(f"nsd TCP{more}", converse(TCP_DNS, DNS_ANSWER), nsd(how), "nsd")
      for more, how in (("", "no"), (" reuseport", "yes"))),
    named("uwsgi", HTTP, uwsgi(), "uwsgi"),
    named("uwsgi --master", HTTP, uwsgi("--master", "-p", "2", "--uid", "nobody"), "uwsgi"),
    named("uwsgi --lazy-apps", HTTP, uwsgi("--master", "-p", "2", "--lazy-apps", "--threads", "2",
                                           "--thunder-lock"), "uwsgi"),
    named("php-fpm", converse(GET_VALUES, VALUES),
          with_file("conf", PHP_FPM, "php-fpm8.2", "-F", "-y", "{home}/conf"), "php-fpm8.2"),
    named("unicorn", HTTP, unicorn(), "unicorn"),
    *(named(f"Net::Server::{kind}", converse(*LINE),
            with_file("main.pl", NET_SERVER % kind, "perl", "{home}/main.pl"), "perl")
      for kind in ("PreFork", "Fork", "PreForkSimple", "Single")),
    named("Twisted", converse(*LINE), python(TWISTED)),
    named("Twisted UDP", ask(ECHO, ECHO), python(TWISTED_UDP), **UDP),
    named("Tornado, 2 processes", HTTP, python(TORNADO)),
    named("gevent", HTTP, python(GEVENT)),
    named("gevent UDP", ask(ECHO, ECHO), python(GEVENT_UDP), **UDP),
    named("uvloop", converse(*LINE), python(UVLOOP)),
    named("uvloop UDP", ask(ECHO, ECHO), python(UVLOOP_UDP), **UDP),
    *(named(f"aiohttp{more}", HTTP, python(AIOHTTP % how))
      for more, how in (("", "False"), (" reuse_port", "True"))),
    *(named(f"Python {kind}", converse(*LINE), python(SOCKETSERVER % kind))
      for kind in ("TCPServer", "ThreadingTCPServer", "ForkingTCPServer")),
    *(named(f"Python multiprocessing {how}, {what} is sent", converse(*LINE), python(text % how))
      for what, text in (("connection", CONNECTION_IS_SENT), ("listener", LISTENER_IS_SENT))
      for how in ("fork", "spawn", "forkserver")),
    named("Java Selector", converse(*LINE), java(SELECTOR), "java"),
    named("Java AsynchronousServerSocketChannel", converse(*LINE), java(ASYNCHRONOUS), "java"),
    named("Java DatagramChannel", ask(ECHO, ECHO), java(DATAGRAMS), "java", **UDP),
    named("waitress", HTTP, application(PYTHON, "-m", "waitress", "--listen=[::]:{port}",
                                        "app:application")),
    named("hypercorn -w 2", HTTP,
          application("hypercorn", "-w", "2", "-b", "[::]:{port}", "app:app"), "hypercorn"),
    *(named(f"uvicorn{more}", HTTP,
            application("uvicorn", *more.split(), "--host", "::", "--port", "{port}", "app:app"),
            "uvicorn") for more in ("", " --workers 2")),
    *(named(f"gunicorn {more}", HTTP,
            application("gunicorn", "-w", "2", "-b", "[::]:{port}", *more.split(),
                        "app:application"), "gunicorn")
      for more in ("-k gthread", "-k eventlet", "-k gevent", "-k tornado", "--reuse-port")),
    named("ngircd", talk_irc, with_file("conf", NGIRCD, "ngircd", "-n", "-f", "{home}/conf"),
          "ngircd"),
    named("webfsd", HTTP, run("webfsd", "-F", "-6", "-p", "{port}", "-r", "{home}"), "webfsd"),
    named("mini_httpd", HTTP, run("mini_httpd", "-D", "-p", "{port}", "-d", "{home}", "-h", "::",
                                  "-u", "nobody"), "mini_httpd"),
    named("nbd-server", converse(None, "NBDMAGIC"),
          with_file("conf", NBD, "nbd-server", "-C", "{home}/conf"), "nbd-server"),
    named("danted", converse(ANY_METHOD, NO_METHOD),
          with_file("conf", DANTE, "danted", "-f", "{home}/conf", "-p", "{home}/pid"), "danted"),
    named("microsocks", converse(ANY_METHOD, NO_METHOD),
          run("microsocks", "-i", "::", "-p", "{port}"), "microsocks"),
    named("privoxy", HTTP,
          with_file("conf", "listen-address [::]:{port}\nconfdir /etc/privoxy\nlogdir {home}/run\n",
                    "privoxy", "--no-daemon", "{home}/conf", owner="nobody"), "privoxy"),
    named("beanstalkd", converse("stats\r\n", "OK"),
          run("beanstalkd", "-l", "::", "-p", "{port}", "-u", "nobody"), "beanstalkd"),
    named("gearmand", converse("version\n", "OK"),
          run("gearmand", "-L", "::", "-p", "{port}", "-u", "nobody", "-l", "{home}/log"),
          "gearmand"),
    named("pgbouncer", converse(POSTGRES_SSL, b"N"),
          with_file("conf", PGBOUNCER, "pgbouncer", "{home}/conf", owner="nobody"), "pgbouncer"),
    named("icecast2", HTTP,
          with_file("conf", ICECAST, "icecast2", "-c", "{home}/conf", owner="nobody"), "icecast2"),
    named("aria2c", HTTP, run("aria2c", "--enable-rpc", "--rpc-listen-all",
                              "--rpc-listen-port={port}", "--listen-port=1{port}"), "aria2c"),
    named("busybox httpd", HTTP,
          run("busybox", "httpd", "-f", "-p", "[::]:{port}", "-h", "{home}"), "busybox"),
    named("prosody", converse(XMPP, "stream:"),
          with_file("conf.lua", PROSODY, "setpriv", "--reuid=prosody", "--regid=prosody",
                    "--clear-groups", "prosody", "--config", "{home}/conf.lua", "-F",
                    owner="prosody"), "prosody"),
)
