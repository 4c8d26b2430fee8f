"""Python, and what serves by it."""

from by_name import ECHO, IPV4, LINE, UDP, WEB, ask, converse, named, run, with_file
from servers import PYTHON

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


def python(text):
    return with_file("main.py", text, PYTHON, "{home}/main.py")


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


def application(*words):
    """Of Python's, in the directory that it is in."""
    return with_file("app.py", WSGI, "sh", "-c", 'cd {home} && exec "$@"', "sh", *words)


def uwsgi(*words):
    return application("uwsgi", "--plugin", "python3", "--http-socket", "[::]:{port}",
                       "--wsgi-file", "app.py", *words)


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

CHERRYPY = """
import cherrypy
class Root:
    @cherrypy.expose
    def index(self):
        return "in"
cherrypy.config.update({"server.socket_host": "::", "server.socket_port": {port}})
cherrypy.quickstart(Root())
"""


SERVERS = (
    named("Python asyncio", converse(*LINE), run(PYTHON, "-c", ASYNCIO)),
    named("Twisted", converse(*LINE), python(TWISTED)),
    named("Twisted UDP", ask(*ECHO), python(TWISTED_UDP), **UDP),
    named("twistd web", WEB, run("twistd3", "--pidfile={home}/pid", "--logfile={home}/log", "web",
                                  "--listen=tcp6:{port}", "--path={home}"), "twistd3"),
    named("Tornado, 2 processes", WEB, python(TORNADO)),
    named("gevent", WEB, python(GEVENT)),
    named("gevent UDP", ask(*ECHO), python(GEVENT_UDP), **UDP),
    named("uvloop", converse(*LINE), python(UVLOOP)),
    named("uvloop UDP", ask(*ECHO), python(UVLOOP_UDP), **UDP),
    *(named(f"aiohttp{more}", WEB, python(AIOHTTP % how))
      for more, how in (("", "False"), (" reuse_port", "True"))),
    *(named(f"Python {kind}", converse(*LINE), python(SOCKETSERVER % kind))
      for kind in ("TCPServer", "ThreadingTCPServer", "ForkingTCPServer")),
    *(named(f"Python multiprocessing {how}, {what} is sent", converse(*LINE), python(text % how))
      for what, text in (("connection", CONNECTION_IS_SENT), ("listener", LISTENER_IS_SENT))
      for how in ("fork", "spawn", "forkserver")),
    named("Python http.server", WEB,
          run(PYTHON, "-m", "http.server", "{port}", "--bind", "::", "-d", "{home}")),
    named("Python http.server IPv4", WEB, run(PYTHON, "-m", "http.server", "{port}", "-d", "{home}"), **IPV4),
    named("uwsgi", WEB, uwsgi(), "uwsgi"),
    named("uwsgi --master", WEB, uwsgi("--master", "-p", "2", "--uid", "nobody"), "uwsgi"),
    named("uwsgi --lazy-apps", WEB, uwsgi("--master", "-p", "2", "--lazy-apps", "--threads", "2",
                                           "--thunder-lock"), "uwsgi"),
    named("waitress", WEB, application(PYTHON, "-m", "waitress", "--listen=[::]:{port}",
                                        "app:application")),
    named("hypercorn -w 2", WEB,
          application("hypercorn", "-w", "2", "-b", "[::]:{port}", "app:app"), "hypercorn"),
    *(named(f"uvicorn{more}", WEB,
            application("uvicorn", *more.split(), "--host", "::", "--port", "{port}", "app:app"),
            "uvicorn") for more in ("", " --workers 2")),
    *(named(f"gunicorn {more}", WEB,
            application("gunicorn", "-w", "2", "-b", "[::]:{port}", *more.split(), "app:application"),
            "gunicorn")
      for more in ("-k sync", "-k gthread", "-k eventlet", "-k gevent", "-k tornado", "--reuse-port")),
    named("gunicorn -k uvicorn", WEB, application("gunicorn", "-w", "2", "-b", "[::]:{port}", "-k",
                                                 "uvicorn.workers.UvicornWorker", "app:app"),
          "gunicorn", "uvicorn"),
    named("daphne", WEB, application(PYTHON, "-m", "daphne", "-b", "::", "-p", "{port}", "app:app")),
    named("CherryPy", WEB, python(CHERRYPY)),
)
