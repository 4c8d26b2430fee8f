"""Voice, sound and games."""

import time

from by_name import (IPV4, TLS, UDP, WEB, as_user, ask, calls_with, converse, named, owned, run,
                     with_file, written)
from topology import PEER, SERVER

SIP = ("OPTIONS sip:lab SIP/2.0\r\nVia: SIP/2.0/TCP lab:5060;branch=z9hG4bK1\r\nMax-Forwards: 9\r\n"
       "From: <sip:a@lab>;tag=1\r\nTo: <sip:b@lab>\r\nCall-ID: 1@lab\r\nCSeq: 1 OPTIONS\r\n"
       "Content-Length: 0\r\n\r\n")


def talk_sip(stand, server, program, source_port, port, timeout):
    converse(SIP, f"200 OK {PEER[6]} {source_port}".replace("200 OK", "SIP/2.0 200 OK"))(
        stand, server, program, source_port, port, timeout)


def talk_sip_udp(stand, server, program, source_port, port, timeout):
    with server.client(stand, server.family, source_port, port, timeout) as client:
        end = time.monotonic() + timeout
        while True:
            client.send(SIP.replace("/TCP", "/UDP").replace(" lab:5060", f" lab:{source_port}"))
            try:
                client.receive_until("SIP/2.0 200 OK", 0.3)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise


def kamailio(transport):
    def make(home, port, _):
        conf = written(home / "kamailio.cfg", f"""
            children=2
            tcp_children=2
            listen={transport}:[{SERVER[6]}]:{port}
            mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/"
            loadmodule "pv.so"
            loadmodule "sl.so"
            request_route {{ sl_send_reply("200", "OK $si $sp"); }}
        """)
        owned(home / "run", "nobody")
        return ["kamailio", "-f", conf, "-u", "nobody", "-g", "nogroup", "-P", home / "run/pid",
                "-Y", home / "run", "-DD", "-E", "-m", "16", "-M", "4"]
    return make


STUN_QUERY = bytes.fromhex("000100002112a442") + b"synergy-test"
STUN_ANSWER = bytes.fromhex("0101")
MUMBLE_PING = bytes(4) + b"synergy!"
MURMUR = "host=::\nport={port}\ndatabase={home}/run/db\nuname=mumble-server\nallowping=true\n"

TURN = run("turnserver", "-n", "-p", "{port}", "-L", "::", "--no-cli", "--no-tls", "--no-dtls", "-l",
           "{home}/log", "--pidfile", "{home}/pid", "-b", "{home}/db", "-E", "2001:db8:a::11")
MPD = """
bind_to_address "::"
port "{port}"
user "nobody"
audio_output {
    type "null"
    name "lab"
}
"""
FREECIV, BZFS = "/usr/games/freeciv-server", "/usr/games/bzfs"
FREECIV_JOIN = bytes((0, 41)) + b"\x04lab\0+Freeciv-3.0-network\0\0" + bytes(12)


SERVERS = (
    named("kamailio -u nobody", talk_sip, kamailio("tcp"), "kamailio"),
    named("kamailio -u nobody UDP", talk_sip_udp, kamailio("udp"), "kamailio", **UDP),
    named("turnserver", calls_with("turnutils_stunclient", "-p", "{port}", "{server}", says="reflexive addr"),
          TURN, "turnserver", **UDP),
    named("turnserver TCP", converse(STUN_QUERY, STUN_ANSWER), TURN, "turnserver"),
    named("murmurd", ask(MUMBLE_PING, b"synergy!"),
          with_file("conf", MURMUR, "murmurd", "-fg", "-ini", "{home}/conf",
          owner="mumble-server"), "murmurd", **UDP),
    named("murmurd TLS", TLS, with_file("conf", MURMUR, "murmurd", "-fg", "-ini", "{home}/conf",
                                       owner="mumble-server"), "murmurd"),
    named("snapserver", WEB,
          run("snapserver", "--http.port={port}", "--http.bind_to_address=::", "--tcp.enabled=false",
              "--stream.port=2{port}", "--server.datadir={home}", "--server.user=", "--config=/dev/null",
              "--logging.sink=null"), "snapserver"),
    named("mpd", converse(None, "OK MPD"), with_file("conf", MPD, "mpd", "--no-daemon", "--stderr",
                                                    "{home}/conf", owner="nobody"), "mpd"),
    named("freeciv-server", converse(FREECIV_JOIN, b"\x05"),
          run(*as_user("nobody", FREECIV), "-p", "{port}", "-l", "/dev/null", "-A", "none"), FREECIV),
    named("bzfs", converse("BZFLAG\r\n\r\n", "BZFS"),
          run(BZFS, "-p", "{port}", "-q", "-noMasterBanlist"), BZFS, **IPV4),
)
