"""Every example that a document shows runs as it stands there, on SmolLM2; `run` and `batch` also on 1 and 3 ranks."""
import json
import os
import pathlib
import re
import subprocess
import unittest

from program import JUPITER, REAL_MODEL, ROOT, ProgramTest

DATA = ROOT / "tests" / "data"
CHAT = "Hi\nAnd?\nName three fruits.\n"
# Examples that are not run here, with the reason. What is not listed is run.
NOT_RUN = {
    "bash jobs/quickstart.sh": "installs packages and builds: .ci/run and jobs/test.sh do the same",
    "bash jobs/test.sh": "runs this test",
    "build/jupiter synth --shape llama2-7b": "3.6 GB; synth is tested with smaller shapes",
    "jobs/jupiter-run -n 4 train-draft": "trains for hours: test_train_draft",
    "build/jupiter train-draft": "trains for hours: test_train_draft",
    "jobs/supervise": "needs boards: test_supervise",
    "bash jobs/accuracy.sh": "an hour; test_accuracy runs its short form",
    "sudo jobs/emulate": "needs root and the machine for itself: test_emulate",
    "jobs/draw-trace": "draws what the lines before it made: test_emulate",
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
        (cls.home / "jobs").symlink_to(ROOT / "jobs")
        (cls.home / "model.gguf").symlink_to(next((ROOT / "downloads").rglob("SmolLM2-135M-Instruct*.gguf")))
        (cls.home / "draft.h5").symlink_to(ROOT / "jobs" / "drafts" / "smollm2-135m.h5")
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

    def test_readme(self):
        for command in examples(ROOT / "README.md"):
            if not_run(command):
                continue
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
        convert = next(c for c in examples(ROOT / "README.md") if " convert model.gguf" in c)
        self.succeed(convert)
        commands = [c for c in examples(ROOT / "README.md")
                    if re.match(r"jobs/jupiter-run -n 4 (run|batch) ", c) and not not_run(c)]
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

    def test_examples_of_the_other_documents_are_known(self):
        """An example that is added runs here, or says why it does not."""
        documents = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
        for name in documents.stdout.split():
            for command in examples(ROOT / name):
                if name != "README.md":
                    self.assertIsNotNone(not_run(command), f"{name}: {command}")

    def test_every_reason_still_has_its_example(self):
        documents = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
        if not documents.stdout:
            self.skipTest("not a git checkout")
        shown = "\n".join(c for name in documents.stdout.split() for c in examples(ROOT / name))
        for start in NOT_RUN:
            self.assertIn(start, shown)


if __name__ == "__main__":
    unittest.main()
