"""Perl, Ruby, PHP, Tcl and Lua, and what serves by them."""

from by_name import ECHO, IPV4, LINE, UDP, WEB, ask, converse, named, run, with_file

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
PSGI = 'sub { [200, ["Content-Type" => "text/plain"], ["in"]] }'
RUBY = """require "webrick"
WEBrick::HTTPServer.new(Port: {port}, BindAddress: "::", DocumentRoot: "{home}").start"""
RACK = """run ->(_) { [200, {"Content-Type" => "text/plain"}, ["in"]] }\n"""


def unicorn():
    return with_file("config.ru", RACK, "sh", "-c",
                     "printf \"listen '[::]:{port}'\\nworker_processes 2\\n\" >{home}/conf.rb; "
                     "exec unicorn -c {home}/conf.rb {home}/config.ru")


GET_VALUES, VALUES = bytes((1, 9, 0, 0, 0, 0, 0, 0)), bytes((1, 10))  # of FastCGI
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
MOJO = 'use Mojolicious::Lite; get "/" => {text => "in"}; app->start'
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

PHP = """<?php
$listener = stream_socket_server("tcp://[::]:{port}");
while ($peer = stream_socket_accept($listener, -1)) {
    fwrite($peer, fgets($peer));
    fclose($peer);
}
"""


SERVERS = (
    named("Perl HTTP::Daemon", WEB, run("perl", "-e", PERL), "perl"),
    *(named(f"Net::Server::{kind}", converse(*LINE),
            with_file("main.pl", NET_SERVER % kind, "perl", "{home}/main.pl"), "perl")
      for kind in ("PreFork", "Fork", "PreForkSimple", "Single")),
    named("starman", WEB, with_file("app.psgi", PSGI, "starman", "--listen", ":{port}",
                                     "--workers", "2", "--user", "nobody", "--group", "nogroup",
                                     "{home}/app.psgi"), "starman"),
    *(named(f"Mojolicious {how}", WEB,
            run("perl", "-e", MOJO, how, "-l", "http://[::]:{port}", "-m", "production", *more),
            "mojo")
      for how, *more in (("daemon",), ("prefork", "-w", "2", "-P", "{home}/pid"))),
    named("twiggy", WEB, with_file("app.psgi", PSGI, "twiggy", "--listen", ":{port}", "{home}/app.psgi"),
          "twiggy", **IPV4),
    named("Ruby WEBrick", WEB, run("ruby", "-e", RUBY), "ruby"),
    named("puma", WEB,
          with_file("config.ru", RACK, "puma", "-q", "-b", "tcp://[::]:{port}",
          "{home}/config.ru"), "puma"),
    named("puma -w 2", WEB,
          with_file("config.ru", RACK, "puma", "-q", "-w", "2", "-b", "tcp://[::]:{port}",
          "{home}/config.ru"), "puma"),
    named("unicorn", WEB, unicorn(), "unicorn"),
    named("thin", WEB, with_file("config.ru", RACK, "thin", "-q", "-a", "::", "-p", "{port}", "-R",
                                "{home}/config.ru", "start"), "thin"),
    named("php -S", WEB, run("php", "-S", "[::]:{port}", "-t", "{home}"), "php"),
    named("php-fpm", converse(GET_VALUES, VALUES),
          with_file("conf", PHP_FPM, "php-fpm8.2", "-F", "-y", "{home}/conf"), "php-fpm8.2"),
    named("PHP stream_socket_server", converse(*LINE),
          with_file("main.php", PHP, "php", "{home}/main.php"), "php"),
    named("Tcl", converse(*LINE), with_file("main.tcl", TCL, "tclsh", "{home}/main.tcl"), "tclsh"),
    named("LuaSocket", converse(*LINE), with_file("main.lua", LUA, "lua5.4", "{home}/main.lua"),
          "lua5.4"),
    named("LuaSocket UDP", ask(*ECHO),
          with_file("main.lua", LUA_UDP, "lua5.4", "{home}/main.lua"), "lua5.4", **UDP),
)
