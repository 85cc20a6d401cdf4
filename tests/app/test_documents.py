"""Every example of the README and of the manual runs as it stands there, on SmolLM2; `run` and `batch` also on 1 and 3
ranks. Every command line of every document names a subcommand that exists and options that it knows."""
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import unittest

from program import JUPITER, REAL_MODEL, ROOT, ProgramTest, jupiter

DATA = ROOT / "tests" / "data"
RUN = ("README.md", "app/README.md")  # documents whose examples run here; what the others show is listed below
CHAT = "Hi\nAnd?\nName three fruits.\n"
# Examples that are not run here, with the reason. What is not listed is run.
NOT_RUN = {
    "bash jobs/quickstart.sh": "installs packages and builds: .ci/run and jobs/test.sh do the same",
    "bash jobs/test.sh": "runs this test",
    "build/jupiter synth --shape llama2-7b": "3.6 GB; synth is tested with smaller shapes",
    "bash .ci/run": "runs this test",
    "bash jobs/ci/check-format.sh": "looks at the sources only: .ci/run does it",
    "bash jobs/ci/test-sanitizers.sh": "builds: .ci/run does it",
    "bash jobs/ci/test-aarch64.sh": "builds: .ci/run does it",
    "bash jobs/ci/fuzz.sh": "builds with clang, and fuzzes for as long as it is told",
    "bash jobs/ci/test-api.sh": "installs what others test servers with, and takes minutes",
    "build-api/bin/python": "wants sources that are not here",
    "ctest --test-dir build-test": "runs tests",
    "build-test/tests/parallel/parallel_test": "runs tests",
    "jobs/jupiter-run -n 4 train-draft": "trains for hours: test_train_draft",
    "build/jupiter train-draft": "trains for hours: test_train_draft",
    "jobs/jupiter-serve": "runs until it is stopped: test_serve runs it",
    "curl http://127.0.0.1:8080": "asks the line before: test_serve runs it",
    "jobs/cluster/supervise": "needs boards: test_supervise",
    "jobs/jupiter-serve -m models/NAME --cluster": "needs boards: test_serve_boards",
    "sudo jobs/jupiter-serve": "needs root and the machine for itself: test_emulate",
    "bash jobs/accuracy/accuracy.sh": "an hour; test_accuracy runs its short form",
    "sudo jobs/emulate/emulate": "needs root and the machine for itself: test_emulate",
    "jobs/bench/draw-trace": "draws what the lines before it made: test_emulate",
    "cmake -S . -B build": "builds: jobs/test.sh does the same",
    "cd build && cpack": "installs a package: jobs/ci/test-packages.sh",
    "sudo cmake --install build": "writes to this machine: test_install",
    "sudo bash jobs/ci/test-packages.sh": "makes Debians in folders, needs root and minutes",
    "cp jobs/packages/ansible": "needs boards",
    "ansible-playbook": "needs boards",
    "spack repo add": "needs Spack",
}
# What an example needs beside its words on a machine that plays all boards.
ADDED = {" profile ": " --shared-host"}


def examples(document):
    """Command lines of fenced shell blocks and of indented blocks, without their comments."""
    fenced = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced and line.strip() == "```sh"
            continue
        command = re.split(r"\s+# ", line.strip())[0]
        if command and (fenced or re.match(r" {4}(bash |sudo |build/|jobs/)", line)):
            yield command


@functools.cache
def documents():
    """Texts by name; none where this is no git checkout."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in listed.stdout.split()}


@functools.cache
def known_options():
    """What each subcommand's --help lists, by subcommand: -m, --model, -ctk, ...; not what its texts mention."""
    listed = re.compile(r"(?m)^ +(?:(-\w), )? *(--[\w-]+)(?:.* (-\w{3}):)?")
    names = re.findall(r"(?m)^  ([a-z-]+)  +\S", jupiter("--help").stdout)
    return {n: {o for options in listed.findall(jupiter(n, "--help").stdout) for o in options if o} for n in names}


def command_lines(text):
    """Subcommand and words behind it of every command that a document shows in a block or within a sentence. A span
    that begins with a subcommand and an option counts, too."""
    fenced = text.split("```")[1::2]
    blocks = [line for part in fenced for line in part.replace("\\\n", " ").splitlines()]
    blocks += re.findall(r"(?m)^    (\S.*)$", text)
    spans = [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", "".join(text.split("```")[0::2]))]
    for line in [*blocks, *spans]:
        words = re.split(r"\s+# ", line)[0]
        try:
            words = shlex.split(words)
        except ValueError:
            words = words.split()  # a quote that the document does not close
        program = next((i for i, w in enumerate(words) if re.fullmatch(r"(\S*/)?jupiter(-run)?", w)), None)
        if program is not None:
            # The first word that looks like a subcommand and is not the value of an option of the launcher.
            at = next((i for i in range(program + 1, len(words)) if re.fullmatch(r"[a-z][a-z-]*", words[i])
                       and not words[i - 1].startswith("-")), None)
            if at is not None and (at == program + 1 or words[program].endswith("-run")):
                yield words[at], words[at + 1:]
        elif len(words) > 1 and words[0] in known_options() and words[1].startswith("-"):
            yield words[0], words[1:]


def options_of(words):
    for word in words:
        if word in ("|", ">", "&&", ";", "--"):
            return
        if re.match(r"--?[a-zA-Z]", word):
            yield re.split(r"[=,|\[]", word)[0]


def not_run(command):
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
class Documents(ProgramTest):
    """A folder that looks like the checkout of somebody who has built the program and has the files that are named."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = cls.folder / "checkout"
        (cls.home / "build").mkdir(parents=True)
        (cls.home / "build" / "jupiter").symlink_to(pathlib.Path(JUPITER).resolve())
        # Not a link: scripts look for the program beside the place where they really are.
        shutil.copytree(ROOT / "jobs", cls.home / "jobs", symlinks=True)
        (cls.home / "model.gguf").symlink_to(next((ROOT / "downloads").rglob("SmolLM2-135M-Instruct*.gguf")))
        (cls.home / "draft.h5").symlink_to(ROOT / "jobs" / "train" / "smollm2-135m.h5")
        (cls.home / "hosts").write_text("localhost slots=4\n")
        (cls.home / "file.txt").write_text((DATA / "wikitext2_test_8k.txt").read_text(encoding="utf-8")[:6000])
        cls.lines("g.jsonl", DATA / "smollm2_greedy.jsonl", 2)
        cls.lines("c.jsonl", DATA / "choices.jsonl", 4)
        requests = [{"id": i, "prompt": f"Name {i + 2} fruits."} for i in range(3)]
        requests.append({"id": "short", "messages": [{"role": "user", "content": "What is MPI?"}], "max_tokens": 5})
        (cls.home / "requests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))

    @classmethod
    def lines(cls, name, source, count):
        with open(source, encoding="utf-8") as text:
            (cls.home / name).write_text("".join(next(text) for _ in range(count)), encoding="utf-8")

    def shell(self, command):
        environment = {k: v for k, v in os.environ.items() if k != "JUPITER"}
        return subprocess.run(["bash", "-c", command], cwd=self.home, env=environment, input=CHAT, text=True,
                              capture_output=True, timeout=600, check=False)

    def succeed(self, command):
        result = self.shell(command)
        self.assertEqual(result.returncode, 0, f"{command}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def shown(self):
        """The commands that run here, each once."""
        return [c for c in dict.fromkeys(c for name in RUN for c in examples(ROOT / name)) if not not_run(c)]

    def test_examples(self):
        for command in self.shown():
            with self.subTest(command=command):
                for word, option in ADDED.items():
                    command += option if word in command else ""
                if "--baseline b.json" in command:  # a baseline is written once, then runs are held against it
                    self.succeed(command + " --update-baseline")
                self.succeed(command)
        self.assertEqual(json.loads((self.home / "out.json").read_text())["finish_reason"], "stop")
        self.assertEqual(len((self.home / "answers.jsonl").read_text().splitlines()), 4)
        self.assertIn("traceEvents", json.loads((self.home / "trace.json").read_text()))

    def test_answers_are_the_same_on_any_number_of_ranks_and_without_a_length(self):
        self.succeed(next(c for c in self.shown() if " convert model.gguf" in c))
        commands = [c for c in self.shown() if re.match(r"jobs/jupiter-run -n 4 (run|batch) ", c)]
        self.assertGreaterEqual(len(commands), 4)
        for command in commands:
            command = re.sub(r" -n \d+(?= --json| *$)", "", command)
            found = set()
            for ranks in (1, 3):
                (self.home / "answers.jsonl").unlink(missing_ok=True)
                with self.subTest(command=command, ranks=ranks):
                    shown = self.succeed(command.replace("jupiter-run -n 4", f"jupiter-run -n {ranks}"))
                    if " batch " in command:
                        answers = map(json.loads, (self.home / "answers.jsonl").read_text().splitlines())
                        shown = str(sorted((str(a["id"]), a["text"], a["logits_hash"]) for a in answers))
                    found.add(shown)
            self.assertEqual(len(found), 1, command)


class EveryDocument(unittest.TestCase):
    def setUp(self):
        if not documents():
            self.skipTest("not a git checkout")

    def test_examples_of_the_other_documents_are_known(self):
        """An example that is added runs here, or says why it does not."""
        for name in documents():
            for command in examples(ROOT / name) if name not in RUN else []:
                self.assertIsNotNone(not_run(command), f"{name}: {command}")

    def test_every_reason_still_has_its_example(self):
        shown = "\n".join(c for name in documents() for c in examples(ROOT / name))
        for start in NOT_RUN:
            self.assertIn(start, shown)

    def test_subcommands_and_options_exist(self):
        seen = 0
        for name, text in documents().items():
            for subcommand, words in command_lines(text):
                with self.subTest(document=name, command=f"{subcommand} {shlex.join(words)}"):
                    self.assertTrue(subcommand in known_options(), subcommand)
                    for option in options_of(words):
                        self.assertTrue(option in known_options()[subcommand], option)
                        seen += 1
        self.assertGreater(seen, 50)

    def test_the_manual_lists_every_subcommand_and_the_launcher_knows_it(self):
        manual = set(re.findall(r"(?m)^\| `([a-z-]+)` \|", documents()["app/README.md"].split("## ")[0]))
        launcher = re.search(r"(?s)SUBCOMMANDS = \{(.*?)\}", (ROOT / "jobs/jupiter-run").read_text(encoding="utf-8"))[1]
        self.assertEqual(manual, set(known_options()))
        self.assertEqual(set(re.findall(r'"([a-z-]+)"', launcher)), set(known_options()))

    def test_the_check_itself_finds_something(self):
        lines = list(command_lines("```sh\njobs/jupiter-run -n 2 run -m DIR --no-such\n```\nand `plan -c 1 --json x`"))
        self.assertEqual([(c, list(options_of(w))) for c, w in lines],
                         [("run", ["-m", "--no-such"]), ("plan", ["-c", "--json"])])
        self.assertNotIn("--no-such", known_options()["run"])


if __name__ == "__main__":
    unittest.main()
