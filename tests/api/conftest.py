"""One server of SmolLM2 for all suites. --full runs what takes minutes, too."""
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "app"))

from program import REAL_MODEL
from test_serve import Server

KEY = "a key"


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the whole suites, about ten minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[item for item in items if "full" in item.keywords])
        items[:] = [item for item in items if "full" not in item.keywords]


@pytest.fixture(scope="session")
def server():
    with Server(REAL_MODEL, "-c", 2048, "--alias", "smollm2,a-second-name", "--api-key", KEY, ranks=2) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(server):
    return f"http://127.0.0.1:{server.port}"
