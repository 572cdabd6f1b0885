"""The study commands: create, invite, vote and results, and errors."""

import csv
import json
import re

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.commands import study as commands_study
from pipeline.store.run_folder import Store
from pipeline.study import plan, web
from tests.support.study_fixtures import csrf


def invoke(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def refused(*arguments) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


def test_study_from_runs_to_results(runs, tmp_path, monkeypatch):
    out = tmp_path / "study"
    options = ["--runs", ",".join(map(str, runs)), "--prompts", 1, "--volunteers", 2, "--out", out]
    made = invoke("create", *options, "--url", "https://study.example.org/")
    assert made.exit_code == 0, made.output
    links = made.stdout.splitlines()
    assert len(links) == 2
    assert all(re.fullmatch(r"https://study\.example\.org/i/[\w-]{43}", link) for link in links)
    assert "3 methods, 1 groups, 3 rankings per volunteer" in made.stderr
    more = invoke("invite", out, "--count", 1)
    assert more.stdout.startswith("http://127.0.0.1:8000/i/")
    assert refused("results", out).startswith("Some questions have no votes yet")

    store = Store(out)
    made_plan = plan.read(store)
    for link in [*links, more.stdout.strip()]:
        with TestClient(web.app(store, made_plan, ["testserver"])) as client:
            client.get(link.partition("/i/")[2].join(["/i/", ""]))
            for step in (1, 2, 3):
                page = client.get(f"/step/{step}").text
                fields = {"A": "1", "B": "2", "C": "3", "csrf": csrf(page)}
                assert client.post(f"/step/{step}", data=fields, follow_redirects=False).status_code == 303
    printed = invoke("results", out)
    assert "3 of 3 invited volunteers have voted" in printed.stdout
    assert "| sds-secret" in printed.stdout
    values = json.loads(invoke("results", out, "--json").stdout)
    assert sum(row["mean_rank"] for row in values["ranks"] if row["question"] == "q1") == pytest.approx(6)
    monkeypatch.setattr("pipeline.study.results.to_leaderboards", lambda *_: ["alpha/leaderboard.csv"])
    assert invoke("results", out).stderr == ""
    for option in ("--leaderboard", "--board"):  # the latter is an alias
        assert invoke("results", out, option).stderr == "Leaderboard: alpha/leaderboard.csv\n"
    with open(out / "votes.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 27
    assert "already holds a study" in refused("create", *options)


def test_invalid_options_are_errors(runs, tmp_path, monkeypatch):
    options = ["--runs", runs[0], "--out", tmp_path / "study"]
    assert refused("create", *options, "--volunteers", 0) == "--volunteers is 0; expected 1 to 10000."
    assert "expected only scheme, host and port" in refused("create", *options, "--url", "study.example.org")
    assert "--prompts is 9" in refused("create", *options, "--prompts", 9)
    assert "contains no study" in refused("serve", tmp_path)
    assert refused("serve", tmp_path, "--port", 70000) == "--port is 70000; expected 0 to 65535."
    assert not (tmp_path / "study").exists()
    monkeypatch.setattr(commands_study, "NEEDED", ("fastapi", "no_such_library"))
    for command in (["create", *options], ["serve", tmp_path], ["results", tmp_path], ["invite", tmp_path]):
        found = refused(*command)
        assert found == "A user study needs no_such_library; install them with pip install 'segmentdreamer[study]'."


def test_published_ranks(tmp_path):
    (tmp_path / "ranks.csv").write_text("method,q1_rank\na,1.4\nb,1.6\n")
    printed = invoke("published", tmp_path / "ranks.csv", "--voters", 40).stdout
    assert "| a      | 1.4     |" in printed
    assert "40 volunteers: ranks closer than 0.310 do not differ significantly (Nemenyi)." in printed
    (tmp_path / "ranks.csv").write_text("method,q1_rank\na,1.4\nb,1.4\n")
    assert "sum to 2.80: expected 3 within 0.03" in refused("published", tmp_path / "ranks.csv", "--voters", 40)
