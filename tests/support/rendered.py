"""The chart, rendered by helm, and its pods run as processes of this machine.

A pod's command, arguments and environment are taken as they are. What a cluster would do is done
here: volumes become directories (their paths in the environment follow), Secrets are what the test
gives, and the name of a Service leads over its selector and target port to a pod, which is a
process on loopback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.go_tools import program

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "deploy" / "helm" / "provledger"

Manifest = dict[str, Any]


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm; skips the test where it was not built."""
    version = ("--kube-version", "1.30.0") if arguments[0] in ("lint", "template") else ()
    done = subprocess.run(
        [program("helm"), *arguments, *version], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def values(*names: str) -> list[str]:
    """The options that name value files of the chart's `ci` folder."""
    return [word for name in names for word in ("-f", str(CHART / "ci" / f"{name}.yaml"))]


def render(*options: str, chart: Path = CHART) -> list[Manifest]:
    """All manifests, each strictly decoded into the type that Kubernetes has for it."""
    text = helm("template", "demo", str(chart), "-n", "ledgers", *options).stdout
    decoded = subprocess.run(
        [program("manifests")], input=text, capture_output=True, text=True, check=False
    )
    assert decoded.returncode == 0, decoded.stderr
    manifests: list[Manifest] = json.loads(decoded.stdout)
    return manifests


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    """Those of a kind, by component."""
    label = "app.kubernetes.io/component"
    return {m["metadata"]["labels"][label]: m for m in manifests if m["kind"] == kind}


def pod_of(manifest: Manifest) -> Manifest:
    """The pod template of a Deployment or Job."""
    template: Manifest = manifest["spec"]["template"]
    return template


@dataclass
class Node:
    """This machine as the only node of a cluster: what runs there, below `root`."""

    root: Path
    manifests: Sequence[Manifest]
    secrets: Mapping[str, Mapping[str, bytes]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def pods(self) -> dict[str, Manifest]:
        """The pods, by component: of services and of the Job."""
        found = of_kind(self.manifests, "Deployment") | of_kind(self.manifests, "Job")
        return {name: pod_of(each) for name, each in found.items()}

    def container(self, name: str) -> Manifest:
        """The only container of a pod."""
        (container,) = self.pods()[name]["spec"]["containers"]
        found: Manifest = container
        return found

    def environment(self, name: str) -> dict[str, str]:
        """What a pod's process has, and nothing of this machine's but where programs are."""
        mounts = self._mounts(name)
        env = {"PATH": os.environ["PATH"]}
        for each in self.container(name)["env"]:
            text = each.get("value")
            if text is None:
                source = each["valueFrom"]["secretKeyRef"]
                text = self.secrets[source["name"]][source["key"]].decode()
            else:
                text = self._on_this_node(text, mounts)
            env[each["name"]] = text
        return env

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a pod's process; its output goes to a file."""
        container = self.container(name)
        with (self.root / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                self._command(container["command"]),
                env=self.environment(name),
                cwd=self.root,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.running[name] = process
        return process

    def output(self, name: str) -> str:
        """What a pod's process has said."""
        return (self.root / f"{name}.out").read_text()

    def is_ready(self, name: str) -> bool:
        """Ask the readiness probe once, as it stands in the manifest."""
        probe = self.container(name)["readinessProbe"]
        if "exec" in probe:
            command = self._command(probe["exec"]["command"])
            env = self.environment(name)
            done = subprocess.run(command, env=env, cwd=self.root, capture_output=True, check=False)
            assert done.returncode in (0, 1), done.stderr.decode()
            return done.returncode == 0
        return self._https_ok(probe["httpGet"]["path"], self.port(name))

    def port(self, name: str) -> int:
        """The one port of a pod."""
        (port,) = self.container(name)["ports"]
        return int(port["containerPort"])

    def stop(self) -> dict[str, int]:
        """End all as a cluster would, within each pod's grace period; the exit codes."""
        codes = {}
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            spec = self.pods()[name]["spec"]
            codes[name] = process.wait(spec.get("terminationGracePeriodSeconds", 30))
        return codes

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def _command(self, words: Sequence[str]) -> list[str]:
        assert words[0] == "python"
        return [sys.executable, *words[1:]]

    def _mounts(self, name: str) -> dict[str, Path]:
        """Directory of each mounted path. What is there already stays: a claim is shared."""
        pod = self.pods()[name]["spec"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        found = {}
        for mount in self.container(name)["volumeMounts"]:
            volume = volumes[mount["name"]]
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            path = self.root / (f"claim-{claim}" if claim else f"{name}-{mount['name']}")
            path.mkdir(exist_ok=True)
            for secret in _secrets_of(volume):
                for file, data in self.secrets[secret].items():
                    self._write(path / file, data)
            found[mount["mountPath"]] = path
        return found

    def renew(self, secrets: Mapping[str, Mapping[str, bytes]]) -> None:
        """Replace files of Secrets under the pods that run, as a kubelet does."""
        for name in self.running:
            for volume in self.pods()[name]["spec"]["volumes"]:
                for secret in _secrets_of(volume):
                    for file, data in secrets.get(secret, {}).items():
                        path = self.root / f"{name}-{volume['name']}" / file
                        path.with_suffix(".new").write_bytes(data)
                        path.with_suffix(".new").replace(path)

    def _write(self, path: Path, data: bytes) -> None:
        if not path.exists():
            # A kubelet makes it root's and our group's to read; here it is ours alone.
            path.touch(0o600)
            path.write_bytes(data)

    def _on_this_node(self, text: str, mounts: Mapping[str, Path]) -> str:
        longest_first = sorted(mounts, key=len, reverse=True)
        paths = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])")
        text = paths.sub(lambda found: str(mounts[found[1]]), text)
        return re.sub(r"(?<![\w.-])(demo-[a-z-]+):(\d+)", self._resolve, text)

    def _resolve(self, address: re.Match[str]) -> str:
        """Where a Service leads; raises where there is none, or no pod behind it."""
        services = {m["metadata"]["name"]: m for m in self.manifests if m["kind"] == "Service"}
        spec = services[address[1]]["spec"]
        (port,) = [each for each in spec["ports"] if each["port"] == int(address[2])]
        (pod,) = [p for p in self.pods().values() if _selects(spec["selector"], p)]
        (container,) = pod["spec"]["containers"]
        (target,) = [p for p in container["ports"] if p["name"] == port["targetPort"]]
        return f"localhost:{target['containerPort']}"

    def _https_ok(self, path: str, port: int) -> bool:
        import http.client
        import ssl

        # A kubelet does not check the certificate either.
        context = ssl._create_unverified_context()
        try:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False


def _secrets_of(volume: Manifest) -> Iterator[str]:
    if "secret" in volume:
        yield volume["secret"]["secretName"]
    for source in volume.get("projected", {}).get("sources", ()):
        yield source["secret"]["name"]


def _selects(selector: Mapping[str, str], pod: Manifest) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())
