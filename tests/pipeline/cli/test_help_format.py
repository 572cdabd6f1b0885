"""The help of every command: notation of arguments and options, summaries, and options that a command does not take."""

import re

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app, loaded
from pipeline.work.placement import EVALUATOR_GPU


def commands(command, words=()):
    yield words
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*words, name))


def help_of(*words: str) -> str:
    return " ".join(CliRunner().invoke(app, [*words, "--help"]).stdout.split())


COMMANDS = list(commands(loaded()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_metavars_and_no_python_types(words):
    text = help_of(*words)
    assert re.findall(r"<\w+(?:\[\w+\])?>", text) == []
    assert "{" not in text
    assert "......" not in text.replace(" ", "")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_summaries_of_commands_are_not_truncated(words):
    """A long first line of a docstring ends with an ellipsis in the list of commands."""
    text = CliRunner().invoke(app, [*words, "--help"]).stdout
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


def test_arguments_in_the_usage_line():
    assert help_of("generate").startswith("Usage: root generate [OPTIONS] PROMPT ")
    assert help_of("leaderboard").startswith("Usage: root leaderboard [OPTIONS] DIR|URL... ")
    assert help_of("weights", "fetch").startswith("Usage: root weights fetch [OPTIONS] [MODEL...] ")
    assert help_of("submit", "ray").startswith("Usage: root submit ray [OPTIONS] -- COMMAND... ")
    assert "Arguments: PROMPT Text prompt: 'a red mushroom'. [required]" in help_of("generate")


def test_only_commands_with_several_methods_separate_objectives_with_commas():
    for words in (["bench"], ["nightly"]):
        assert "Separate several with commas" in help_of(*words)
    assert "commas" not in help_of("benchmark", "speed")
    assert "Separate several with commas to generate one asset for each." in help_of("generate")


def test_share_of_a_gpu_of_the_evaluator():
    assert f"shared ({EVALUATOR_GPU} of the GPU of a generation worker)" in help_of("bench")


@pytest.mark.parametrize("words", [("manifest", "kfp"), ("submit", "kfp"), ("schedule", "kfp")])
def test_kubeflow_commands_offer_claims_and_bench_only(words):
    text = help_of(*words)
    assert "--storage CLAIM ReadWriteMany" in text
    assert "nfs://" not in text
    assert "s3://" not in text
    assert "A pipeline runs bench only." in text
    assert "generate, evaluate" not in text
    assert "--run-deadline-hours HOURS Maximum duration of the pipeline run" in text
    assert "--run-deadline-hours" not in help_of("submit", "kuberay")


def test_options_without_effect_are_hidden_and_still_accepted():
    hidden = {
        ("manifest", "raycluster"): ["--retries", "--deadline-hours", "--start-minutes", "--keep-minutes"],
        ("manifest", "raycronjob"): ["--queue"],
        ("schedule", "kfp"): ["--time-zone"],
    }
    for words, options in hidden.items():
        command = loaded()
        for word in words:
            command = command.commands[word]
        for option in options:
            assert f"{option} " not in help_of(*words)
            assert [parameter.hidden for parameter in command.params if option in parameter.opts] == [True]
    assert "--retries N" in help_of("manifest", "rayjob")


def test_mandatory_options_are_marked():
    assert re.search(r"--baseline [^-]* \[required\]", help_of("nightly"))
    assert re.search(r"--baseline [^-]* \[required\]", help_of("nightly", "accept"))
    assert "Reason for setting this baseline. [required]" in help_of("nightly", "accept")
    for verb in ("manifest", "submit"):
        assert "mounted at /storage. [required]" in help_of(verb, "kfp")
    for target in ("cronjob", "kfp"):
        text = help_of("schedule", target)
        assert text.count("Required unless --delete is given.") == (3 if target == "cronjob" else 4)
        assert "--image IMAGE" in text
