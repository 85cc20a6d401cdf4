"""Requests that app/gateway/openapi.json allows and forbids, made by schemathesis: the server answers as it says."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import KEY

HERE = pathlib.Path(__file__).resolve().parent


def run(base_url, folder, *options):
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "run", base_url + "/openapi.json", "--no-color",
               "--header", f"Authorization: Bearer {KEY}", "--request-timeout", "120", "--continue-on-failure", *options]
    environment = dict(os.environ, SCHEMATHESIS_HOOKS="schemathesis_hooks", PYTHONPATH=str(HERE))
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    print(result.stdout[result.stdout.find("SUMMARY"):])
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) generated, (\d+) passed", result.stdout)[2]) > 100


def test_some_requests(base_url, tmp_path):
    """The longer name of each path that has two."""
    run(base_url, tmp_path, "--exclude-path-regex", "^/(chat|completions|models|health)", "--phases", "examples,fuzzing",
        "--max-examples", "12", "--generation-deterministic")


@pytest.mark.full
def test_all_requests(base_url, tmp_path):
    run(base_url, tmp_path, "--generation-database", "none")
