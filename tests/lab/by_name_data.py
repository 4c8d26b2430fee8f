"""Directories, data bases, caches and queues."""

import subprocess

from by_name import (GO, UDP, WEB, as_user, ask, calls_with, converse, named, owned, run, with_file,
                     written)

POSTGRES = "/usr/lib/postgresql/15/bin/"


def slapd(home, port, _):
    owned(home / "run", "openldap")
    conf = written(home / "slapd.conf",
                   f"include /etc/ldap/schema/core.schema\npidfile {home}/run/pid\n")
    return ["slapd", "-h", f"ldap://[::]:{port}", "-u", "openldap", "-g", "openldap", "-f", conf]


MEMCACHED_UDP = bytes.fromhex("0007000000010000") + b"version\r\n"
PGBOUNCER = """
[databases]
x=host=127.0.0.1
[pgbouncer]
listen_addr=::
listen_port={port}
unix_socket_dir=
auth_type=any
admin_users=lab
logfile={home}/run/log
user=nobody
"""


def postgres(home, port, _):
    owned(home / "run", "postgres")
    subprocess.run([*as_user("postgres", POSTGRES + "initdb"), "-D", home / "run/data", "-N"],
                   check=True, capture_output=True)
    rights = written(home / "rights", "host all all ::/0 trust\n")
    return [*as_user("postgres", POSTGRES + "postgres"), "-D", home / "run/data", "-p", port,
            "-c", "listen_addresses=::", "-c", f"unix_socket_directories={home}/run",
            "-c", f"hba_file={rights}"]


def mariadb(home, port, _):
    owned(home / "run", "mysql")
    subprocess.run(["mariadb-install-db", "--no-defaults", "--user=mysql",
                    f"--datadir={home}/run/data", "--skip-test-db"], check=True,
                   capture_output=True)
    return ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={home}/run/data",
            f"--port={port}", "--bind-address=::", f"--socket={home}/run/socket",
            f"--pid-file={home}/run/pid", "--skip-grant-tables", "--skip-networking=0"]


SERVERS = (
    named("slapd", calls_with("ldapsearch", "-x", "-H", "ldap://{at}", "-s", "base", "-b", "",
                             says="result: 0"), slapd, "slapd"),
    named("redis-server", calls_with("redis-cli", "-h", "{server}", "-p", "{port}", "ping", says="PONG"),
          run("redis-server", "--port", "{port}", "--bind", "::", "--protected-mode", "no",
              "--dir", "{home}", "--save", ""), "redis-server"),
    named("memcached", converse("version\r\n", "VERSION"),
          run("memcached", "-u", "nobody", "-p", "{port}", "-l", "::"), "memcached"),
    named("memcached UDP", ask(MEMCACHED_UDP, b"VERSION"),
          run("memcached", "-u", "nobody", "-p", "{port}", "-U", "{port}", "-l", "::"), "memcached", **UDP),
    named("postgres", calls_with("psql", "-h", "{server}", "-p", "{port}", "-U", "postgres", "-c",
                                "select 6 * 7", says="42"), postgres, POSTGRES + "postgres"),
    named("mariadbd", calls_with("mariadb", "--no-defaults", "-h", "{server}", "-P", "{port}", "-e",
                                "select 6 * 7", says="42"), mariadb, "mariadbd"),
    named("pgbouncer", calls_with("psql", "-h", "{server}", "-p", "{port}", "-U", "lab", "-d", "pgbouncer",
                                 "-c", "show version", says="PgBouncer"),
          with_file("conf", PGBOUNCER, "pgbouncer", "{home}/conf", owner="nobody"), "pgbouncer"),
    named("beanstalkd", converse("stats\r\n", "OK"),
          run("beanstalkd", "-l", "::", "-p", "{port}", "-u", "nobody"), "beanstalkd"),
    named("gearmand", converse("version\n", "OK"),
          run("gearmand", "-L", "::", "-p", "{port}", "-u", "nobody", "-l", "{home}/log"),
          "gearmand"),
    named("etcd", WEB, run("etcd", "--data-dir={home}/data", "--listen-client-urls=http://[::]:{port}",
                         "--advertise-client-urls=http://[::1]:{port}",
                         "--listen-peer-urls=http://[::1]:2{port}"), "etcd", cannot=GO),
)
