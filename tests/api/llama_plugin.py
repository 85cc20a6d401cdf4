"""In place of the conftest.py of llama.cpp's server tests, which fetches models: a server ends with its test."""
import sys
import types

import pytest

sys.modules["wget"] = types.ModuleType("wget")  # their utils.py imports it to fetch files


@pytest.fixture(autouse=True)
def servers_end_with_their_test():
    yield
    import utils
    for server in set(utils.server_instances):
        server.stop()
