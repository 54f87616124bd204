"""The files of `deploy/`: what they ask of formgate exists, and they agree with each other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from formgate.gateway.cli import USAGE
from formgate.gateway.http.routes.health import router as health_routes
from formgate.gateway.metrics import Metrics
from formgate.gateway.serving.flags import CommandLine, parse_serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = (ROOT / "Dockerfile", DEPLOY / "cpu.Dockerfile")
BOARD = DEPLOY / "grafana" / "boards" / "formgate.json"
QUERIED = re.compile(r"([a-zA-Z_:][\w:]*)\{")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


def parsed(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def manifest(kind: str) -> dict[str, Any]:
    documents = [each for path in (DEPLOY / "kubernetes").glob("*.yaml") for each in parsed(path)]
    (found,) = (each for each in documents if each.get("kind") == kind)
    return found


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments), with continued lines joined."""
    lines = [x for x in dockerfile.read_text().splitlines() if not x.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def flags_of(dockerfile: Path) -> list[str]:
    """The entry point's words after `formgate serve`."""
    (entry,) = (words for name, words in instructions(dockerfile) if name == "ENTRYPOINT")
    command = json.loads(entry)
    assert command[:2] == ["formgate", "serve"]
    return command[2:]


def serve(words: list[str]) -> CommandLine:
    """Exits for a flag that the command line does not know; a note is a flag without effect."""
    command = parse_serve(words, prog="formgate serve")
    assert not command.notes
    return command


def test_all_files_can_be_read() -> None:
    files = sorted(DEPLOY.rglob("*.yaml"))
    assert len(files) >= 9
    for path in files:
        assert all(isinstance(each, dict) for each in parsed(path)), path
    assert sorted(DEPLOY.rglob("*.json")) == [BOARD]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_the_server_as_nobody_in_particular(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    names = [name for name, _ in lines]
    assert names.count("FROM") == 2  # what builds does not ship
    given = dict(lines)
    assert given["USER"] == "10001:10001"
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert given["VOLUME"] == "/cache"
    assert "/health" in given["HEALTHCHECK"]
    command = serve(flags_of(dockerfile))
    assert command.server.host == "0.0.0.0"
    assert str(command.server.port) == given["EXPOSE"]
    copied = {words.split()[0] for name, words in lines if name == "COPY"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"kernels"}
    assert packages - {"tests"} <= copied


def test_a_dockerfile_for_a_cpu_serves_on_it() -> None:
    assert serve(flags_of(DEPLOY / "cpu.Dockerfile")).engine_options["device"] == "cpu"
    assert serve(flags_of(ROOT / "Dockerfile")).engine_options["device"] == "auto"


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_compose_gives_the_server_time_to_drain() -> None:
    (compose,) = parsed(DEPLOY / "compose.yaml")
    service = compose["services"]["formgate"]
    command = serve([*flags_of(ROOT / "Dockerfile"), *service["command"]])
    server = command.server
    assert seconds(service["stop_grace_period"]) > server.shutdown_delay + server.shutdown_timeout
    port = service["ports"][0].rpartition(":")[2]
    assert int(port) == server.port
    (scraped,) = parsed(DEPLOY / "prometheus.yaml")
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == [f"formgate:{port}"]


def test_compose_mounts_files_that_exist() -> None:
    (compose,) = parsed(DEPLOY / "compose.yaml")
    assert (DEPLOY / compose["services"]["formgate"]["build"]["context"] / "Dockerfile").is_file()
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source[0] == "." else source in compose["volumes"]


def test_grafana_finds_its_board_and_its_source() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (boards,) = parsed(provisioning / "dashboards" / "formgate.yaml")
    (compose,) = parsed(DEPLOY / "compose.yaml")
    grafana = compose["services"]["grafana"]
    folder = boards["providers"][0]["options"]["path"]
    assert any(mount.split(":")[1] == folder for mount in grafana["volumes"])
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{BOARD.name}"
    (sources,) = parsed(provisioning / "datasources" / "prometheus.yaml")
    uids = {source["uid"] for source in sources["datasources"]}
    assert {panel["datasource"]["uid"] for panel in panels()} <= uids


def panels() -> list[dict[str, Any]]:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


def series_of_the_server() -> dict[str, set[str]]:
    """Series name -> its labels, of all that /metrics can have."""
    found: dict[str, set[str]] = {}
    registry = Metrics("m").registry
    for family in registry.collect():
        for suffix in SUFFIXES.get(family.type, ("",)):
            found[family.name + suffix] = {"le"} if suffix == "_bucket" else set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_query_of_the_board_names_series_that_exist() -> None:
    series = series_of_the_server()
    asked = [name for query in queries() for name in QUERIED.findall(query)]
    assert len(asked) > 30
    assert not set(asked) - set(series)
    for query in queries():
        assert query.count("(") == query.count(")")
        assert query.count("{") == len(QUERIED.findall(query))
        counters = {name for name in QUERIED.findall(query) if name.endswith(("_total", "_bucket"))}
        for name in counters:  # a counter is only ever read as a rate
            assert re.search(rf"(rate|increase)\({re.escape(name)}{{", query), query


def test_the_boards_labels_exist() -> None:
    metrics = Metrics("m")
    metrics.http_response("/health", "GET", 200)
    metrics.schema_refused("x")
    metrics.keyword_unenforced("x")
    labels: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for query in queries():
        for by, metric in re.findall(r"by \((\w+)\) \(\w+\(([\w:]+)\{", query):
            assert by in labels[metric], query


def test_the_pods_probes_and_drain() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = serve([*flags_of(ROOT / "Dockerfile"), *container["args"]])
    paths = {route.path for route in health_routes.routes if isinstance(route, APIRoute)}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    assert {probe["path"] for probe in probes.values()} == {"/health"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert {"/health", "/ready", "/metrics"} <= paths
    (port,) = container["ports"]
    assert port["containerPort"] == command.server.port
    assert all(probe["port"] == port["name"] for probe in probes.values())
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    server = command.server
    assert server.shutdown_delay > 0
    drain = pause + server.shutdown_delay + server.shutdown_timeout
    assert pod["terminationGracePeriodSeconds"] > drain
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == command.engine_options["tensor_parallel_size"]
    assert pod["securityContext"]["runAsUser"] == 10001


def test_the_manifests_name_each_other() -> None:
    deployment, scaler = manifest("Deployment"), manifest("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # it would undo the autoscaler's at each apply
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert manifest("Service")["spec"]["selector"].items() <= labels
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    pod = deployment["spec"]["template"]["spec"]
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert [c["claimName"] for c in claims] == [
        manifest("PersistentVolumeClaim")["metadata"]["name"]
    ]
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    for name in manifest("Kustomization")["resources"]:
        assert (DEPLOY / "kubernetes" / name).is_file()


def test_the_autoscaler_reads_the_length_of_the_queue() -> None:
    (metric,) = manifest("HorizontalPodAutoscaler")["spec"]["metrics"]
    (values,) = parsed(DEPLOY / "kubernetes" / "prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    assert set(QUERIED.findall(rule["seriesQuery"])) <= set(series_of_the_server())
    assert re.match(rule["name"]["matches"], rule["seriesQuery"].partition("{")[0])


def unit() -> dict[str, str]:
    lines = (DEPLOY / "systemd" / "formgate.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def test_the_unit_starts_serve_and_lets_it_drain() -> None:
    given = unit()
    program, name, *words = shlex.split(given["ExecStart"])
    assert (Path(program).name, name) == ("formgate", "serve")
    command = serve([word for word in words if word != "$FORMGATE_ARGS"])
    assert float(given["TimeoutStopSec"]) > command.server.shutdown_timeout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_knows_each_line_of_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "formgate.service").read_text()
    path = tmp_path / "formgate.service"
    path.write_text(text.replace("/opt/formgate/bin/formgate", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "formgate.service" in line]
    assert not ours


def test_issue_templates_ask_for_commands_that_exist() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = [parsed(path)[0] for path in folder.glob("*.yml") if path.stem != "config"]
    assert len(forms) >= 3
    for form in forms:
        assert form.keys() >= {"name", "description", "body"}
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))
    labels = " ".join(part["attributes"]["label"] for form in forms for part in form["body"])
    for name in re.findall(r"`formgate ([a-z]+)", labels):
        assert re.search(rf"^  {name} ", USAGE, re.MULTILINE), name


def test_the_pages_commands_are_real() -> None:
    """Each `formgate serve` and `docker run` of the page parses."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    served = re.findall(
        r"^(?:\S+/)?formgate (?:serve|doctor) ?(.*?)(?: *#.*)?$", blocks, re.MULTILINE
    )
    images = re.findall(r"^docker run .*? formgate(?::cpu)?(?= |$) ?(.*)$", blocks, re.MULTILINE)
    assert served
    assert len(images) >= 2
    for line in [*served, *images]:
        serve(shlex.split(line))
