"""What names mean in the lab, for every program that is started in it: no file of the system's is
written to, since the lab has its mounts to itself."""

import pathlib
import subprocess

from programs import SCRATCH


class Names:
    """Takes /etc/hosts over, and /etc/resolv.conf where there is to be a name server."""

    def __init__(self):
        SCRATCH.mkdir(mode=0o755, exist_ok=True)
        self.mounted = []
        self.hosts = self._take_over("/etc/hosts", "")
        self._take_over("/etc/resolv.conf", "nameserver ::1\noptions timeout:1 attempts:1\n")

    def _take_over(self, place, content):
        file = SCRATCH / pathlib.Path(place).name
        file.write_text(content, encoding="ascii")
        file.chmod(0o644)
        subprocess.run(["mount", "--bind", file, place], check=True)
        self.mounted.append(place)
        return file

    def set(self, **addresses):
        """set(laptop=["2001:db8::5", ...]): laptop.example.net is this from now on, no other name
        is anything. In place: what is mounted is the file, not its name."""
        self.hosts.write_text("".join(
            f"{address} {name}.example.net\n"
            for name, list_of in addresses.items() for address in list_of), encoding="ascii")

    def ask(self, *servers, timeout=1):
        """Whom to ask for names that are not set."""
        pathlib.Path("/etc/resolv.conf").write_text("".join(
            [f"nameserver {server}\n" for server in servers]
            + [f"options timeout:{timeout} attempts:1\n"]), encoding="ascii")

    def resolve_by(self, *services):
        """nsswitch.conf(5)."""
        self._take_over("/etc/nsswitch.conf", f"hosts: {' '.join(services)}\n")

    def restore(self):
        for place in self.mounted:
            subprocess.run(["umount", place], check=True)
