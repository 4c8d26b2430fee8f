"""Time, logs, monitoring, who may do what, and measuring."""

import struct
import subprocess
import time
import zlib

from by_name import GO, LINE, UDP, WEB, ask, calls_with, converse, filled, named, run, with_file, written

NTP_QUERY = b"\x23" + bytes(47)
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
SER2NET = """
connection: &lab
  accepter: tcp,::,{port}
  connector: echo
  options:
    kickolduser: true
"""

RSYSLOG = """
module(load="im{kind}")
input(type="im{kind}" port="{port}")
*.* /dev/stdout
"""
NRPE = """
server_port={port}
nrpe_user=nagios
nrpe_group=nagios
allowed_hosts=::/0
pid_file={home}/pid
"""
ZABBIX = """
Hostname=lab
Server=::/0
ListenIP=::
ListenPort={port}
AllowRoot=1
LogType=console
PidFile={home}/pid
StartAgents=2
"""
ZABBIX_PING = b"ZBXD\x01" + struct.pack("<Q", 10) + b"agent.ping"
ACCESS_REQUEST = bytes.fromhex("01070019") + b"0123456789abcdef" + b"\x01\x05lab"
ACCESS_REJECT = b"\x03\x07\0"
RADSEC = """
Listen{kind} [::]:{port}
client [::]/0 {
    type {kind}
    secret lab
}
realm * {
    replymessage no
}
"""


def rsyslogd(kind):
    return with_file("conf", filled(RSYSLOG, {"{kind}": kind}), "rsyslogd", "-n", "-f", "{home}/conf", "-i",
                     "{home}/pid")


def radsecproxy(kind):
    return with_file("conf", filled(RADSEC, {"{kind}": kind}), "radsecproxy", "-f", "-c", "{home}/conf")


def freeradius(home, port, _):
    """Debian's configuration, for any client, and with nothing that waits."""
    conf = home / "raddb"
    subprocess.run(["cp", "-a", "/etc/freeradius/3.0", conf], check=True)
    text = (conf / "radiusd.conf").read_text(encoding="utf-8")
    (conf / "radiusd.conf").write_text(text.replace("reject_delay = 1", "reject_delay = 0"), encoding="utf-8")
    written(conf / "clients.conf", "client lab {\nipv6addr = ::/0\nsecret = lab\n}\n")
    return ["freeradius", "-f", "-d", conf, "-i", "::", "-p", port, "-l", "stdout"]


def nrpe_query():
    def packet(check):
        return struct.pack(">hhIh1024sxx", 2, 1, check, 0, b"_NRPE_CHECK")
    return packet(zlib.crc32(packet(0)))


def talk_syslog(transport):
    """Nothing comes back: the server shows what came."""
    def talk(stand, server, program, source_port, port, timeout):
        end = time.monotonic() + timeout
        send = calls_with("logger", "-n", "{server}", "-P", "{port}", transport, f"from {source_port}")
        while True:
            send(stand, server, program, source_port, port, timeout)
            try:
                program.wait_for(f"from {source_port}", 0.3)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise
    return talk


SERVERS = (
    named("chronyd", ask(NTP_QUERY, b"\x24"),
          with_file("conf", "port {port}\nallow ::/0\nlocal stratum 5\ncmdport 0\n"
          "bindcmdaddress /\npidfile {home}/pid\ndriftfile {home}/drift\nuser _chrony\n",
          "chronyd", "-x", "-n", "-f", "{home}/conf"), "chronyd", **UDP),
    named("snmpd", calls_with("snmpget", "-v2c", "-c", "public", "-t", "0.3", "-r", "20", "udp6:{at}",
                             "1.3.6.1.2.1.1.3.0", says="Timeticks"),
          with_file("conf", "agentAddress udp6:{port}\nrocommunity6 public\n", "snmpd", "-f",
                    "-C", "-c", "{home}/conf", "-p", "{home}/pid", "-u", "Debian-snmp", "-Lo"),
          "snmpd", **UDP),
    named("rsyslogd", talk_syslog("-T"), rsyslogd("tcp"), "rsyslogd"),
    named("rsyslogd UDP", talk_syslog("-d"), rsyslogd("udp"), "rsyslogd", **UDP),
    named("munin-node", converse(None, "# munin node at"),
          with_file("conf", MUNIN, "munin-node", "--config", "{home}/conf", "--foreground"),
          "munin-node"),
    named("nrpe", converse(nrpe_query(), bytes.fromhex("00020002")),
          with_file("conf", NRPE, "nrpe", "-f", "-n", "-c", "{home}/conf"), "nrpe"),
    named("zabbix_agentd", converse(ZABBIX_PING, "ZBXD\x01"),
          with_file("conf", ZABBIX, "zabbix_agentd", "-f", "-c", "{home}/conf"), "zabbix_agentd"),
    named("gpsd", converse(None, '"class":"VERSION"'),
          run("gpsd", "-N", "-n", "-G", "-S", "{port}", "-F", "{home}/socket"), "gpsd"),
    named("oidentd", converse("1, 2\r\n", "1,2:ERROR"),
          run("oidentd", "-i", "-S", "-a", "::", "-p", "{port}", "-u", "nobody", "-g", "nogroup"), "oidentd"),
    named("freeradius", ask(ACCESS_REQUEST, ACCESS_REJECT), freeradius, "freeradius", **UDP),
    named("radsecproxy", converse(ACCESS_REQUEST, ACCESS_REJECT), radsecproxy("TCP"), "radsecproxy"),
    named("radsecproxy UDP", ask(ACCESS_REQUEST, ACCESS_REJECT), radsecproxy("UDP"), "radsecproxy", **UDP),
    named("ser2net", converse(*LINE),
          with_file("conf.yaml", SER2NET, "ser2net", "-n", "-c", "{home}/conf.yaml"), "ser2net"),
    named("prometheus-node-exporter", WEB,
          run("prometheus-node-exporter", "--web.listen-address=[::]:{port}"),
          "prometheus-node-exporter", cannot=GO),
    named("iperf", calls_with("iperf", "-V", "-c", "{server}", "-p", "{port}", "-n", "20K", says="Bytes",
                              within=5),
          run("iperf", "-s", "-V", "-p", "{port}"), "iperf", ports_for_a_call=2),
    *(named(f"iperf3{name}", calls_with("iperf3", "-6", "-c", "{server}", "-p", "{port}", "-n", "100K",
                                          "--connect-timeout", "{timeout}000", *more, within=10),
             run("iperf3", "-s", "-p", "{port}"), "iperf3", ports_for_a_call=4)
      for name, more in (("", ()), (" -u", ("-u", "-b", "10M")))),
    named("qperf", calls_with("qperf", "-lp", "{port}", "-ip", "2{port}", "-t", "1", "{server}", "tcp_lat",
                             says="latency", within=9),
          run("qperf", "-lp", "{port}"), "qperf", ports_for_a_call=4),
)
