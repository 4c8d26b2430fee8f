"""Java, Erlang, JavaScript, Lisps and OCaml."""

from by_name import ECHO, LINE, UDP, WEB, ask, converse, named, run, with_file

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


def java(text):
    return with_file("Main.java", text, "java", "{home}/Main.java")


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


def erlang(text):
    return with_file("lab.erl", text, "sh", "-c",
                     "cd {home} && erlc lab.erl && exec erl -noinput -noshell -s lab main")


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
NODE = """require("http").createServer((_, answer) => answer.end("in")).listen({port}, "::")"""
NODE_TCP = """require("net").createServer(peer => peer.pipe(peer)).listen({port}, "::")"""
NODE_CLUSTER = """
const cluster = require("cluster");
if (cluster.isPrimary)
    for (let i = 0; i < 3; i++)
        cluster.fork();
else
    require("http").createServer((_, answer) => answer.end("in")).listen({port}, "::");
"""
NODE_UDP = """
const socket = require("dgram").createSocket("udp6");
socket.on("message", (data, from) => socket.send(data, from.port, from.address));
socket.bind({port});
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


SERVERS = (
    named("Java ServerSocket", converse(*LINE),
          with_file("Main.java", JAVA_SOCKET, "java", "{home}/Main.java"), "java"),
    named("Java HttpServer", WEB, with_file("Main.java", JAVA_HTTP, "java", "{home}/Main.java"),
          "java"),
    named("Java Selector", converse(*LINE), java(SELECTOR), "java"),
    named("Java AsynchronousServerSocketChannel", converse(*LINE), java(ASYNCHRONOUS), "java"),
    named("Java DatagramChannel", ask(*ECHO), java(DATAGRAMS), "java", **UDP),
    named("Erlang gen_tcp", converse(*LINE), erlang(ERLANG), "erl", "erlc"),
    named("Erlang gen_udp", ask(*ECHO), erlang(ERLANG_UDP), "erl", "erlc", **UDP),
    named("Node.js http", WEB, run("node", "-e", NODE), "node"),
    named("Node.js net", converse(*LINE), run("node", "-e", NODE_TCP), "node"),
    named("Node.js cluster", WEB, with_file("main.js", NODE_CLUSTER, "node", "{home}/main.js"),
          "node"),
    named("Node.js dgram", ask(*ECHO), run("node", "-e", NODE_UDP), "node", **UDP),
    named("Guile", WEB, with_file("main.scm", GUILE, "guile", "--no-auto-compile", "{home}/main.scm"),
          "guile"),
    named("SBCL", converse(*LINE), with_file("main.lisp", LISP, "sbcl", "--script", "{home}/main.lisp"),
          "sbcl"),
    named("OCaml", converse(*LINE), with_file("main.ml", OCAML, "ocaml", "unix.cma", "{home}/main.ml"),
          "ocaml"),
)
