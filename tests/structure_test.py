"""The rules of the tree: includes point only to the left of io <- kernels <- parallel <- app, and inside io and parallel
from a room only to those that it may know; mpi.h is seen by three files, JSON is parsed in one, no source file is longer
than 600 lines."""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = ["io", "kernels", "parallel", "app"]
# What each room may include beside itself. The folder's own files ("") are for everybody in it.
ROOMS = {
    "io": {"": [], "tokenizer": [""], "grammar": ["", "tokenizer"], "model": ["", "tokenizer"],
           "formats": ["", "tokenizer", "model"],
           "convert": ["", "tokenizer", "model", "formats"]},
    "app": {"": ["gateway"], "gateway": [""]},
    "parallel": {"comm": [], "plan": [], "draft": [], "pipeline": ["comm", "plan", "draft"],
                 "draft_model": ["comm", "draft", "pipeline", "plan"], "outline": ["pipeline"],
                 "train": ["comm", "draft", "pipeline"], "measure": ["comm", "plan", "pipeline"]},
}
SEES_MPI = {"parallel/comm/mpi.cpp", "parallel/comm/channel.cpp", "parallel/comm/collectives.cpp"}


def sources():
    for folder in ORDER:
        for path in sorted((ROOT / folder).rglob("*.[ch]pp")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


class Structure(unittest.TestCase):
    def test_includes_point_left(self):
        for name, text in sources():
            level = ORDER.index(name.split("/")[0])
            for target in re.findall(r'#include "(\w+)/', text):
                self.assertIn(target, ORDER, f"{name} includes {target}/")
                self.assertLessEqual(ORDER.index(target), level, f"{name} includes {target}/")

    def test_rooms_know_only_those_they_may(self):
        for name, text in sources():
            top, *path = name.split("/")[:-1]
            if top not in ROOMS:
                continue
            room = "/".join(path)
            self.assertIn(room, ROOMS[top], f"{name}: a room without rules")
            for target in re.findall(rf'#include "{top}/(?:(\w+)/)?\w+\.hpp"', text):
                self.assertIn(target, [room, *ROOMS[top][room]], f"{name} includes {top}/{target}")

    def test_mpi_is_seen_by_few_files(self):
        for name, text in sources():
            if re.search(r"#include\s*<mpi\.h>", text):
                self.assertIn(name, SEES_MPI)

    def test_json_is_parsed_in_one_place(self):
        """Elsewhere a deeply nested text would end the program."""
        for name, text in sources():
            if name != "io/json_fields.cpp":
                self.assertIsNone(re.search(r"\b(json|Json)::(parse|accept|sax_parse|from_\w+)\(|\b(istream|>>) *json\b", text), name)

    def test_no_file_is_too_long(self):
        for name, text in sources():
            self.assertLessEqual(text.count("\n"), 600, name)

    def test_the_check_itself_finds_something(self):
        self.assertGreater(len(list(sources())), 20)


if __name__ == "__main__":
    unittest.main()
