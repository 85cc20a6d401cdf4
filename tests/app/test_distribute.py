"""jobs/cluster/distribute, with folders of this machine as boards: a remote shell that runs words in the board's
folder."""
import json
import pathlib
import re
import shlex
import subprocess
import unittest

from program import JUPITER, MPIRUN, ROOT, ProgramTest, jupiter

# HOST SCRIPT; ROOT/HOST/break: no more than so many bytes of input arrive, then the connection is lost. The log counts.
RSH = """#!/bin/sh
cd "{root}/$1" || exit 255
case "$2" in *"dd of"*)
  echo "$2" >> log
  if [ -e break ]; then head -c "$(cat break)" | sh -c "$2"; rm break; echo connection lost >&2; exit 255; fi
esac
exec sh -c "$2"
"""
HOSTS = ["board1", "board2", "board3"]


class Distribute(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.folder / "model"
        result = jupiter("synth", "--shape", "smollm2-135m", "--layers", "4", "-o", cls.model)
        assert result.returncode == 0, result.stderr
        cls.hash = cls.model_hash(cls.model)

    @classmethod
    def model_hash(cls, model):
        return re.search(r"hash +(\w{16})", jupiter("inspect", model).stdout).group(1)

    def setUp(self):
        self.root = self.folder / self.id().rpartition(".")[2]
        for host in HOSTS:
            (self.root / host).mkdir(parents=True)
        self.rsh = self.root / "rsh"
        self.rsh.write_text(RSH.format(root=self.root))
        self.rsh.chmod(0o755)
        self.plan = self.root / "plan.json"
        self.write_plan([0, 1, 3, 4])

    def write_plan(self, cuts, **changes):
        stages = [{"host": host, "slot": 0, "first_layer": cuts[i], "last_layer": cuts[i + 1]}
                  for i, host in enumerate(HOSTS)]
        self.plan.write_text(json.dumps({"kind": "plan", "model_hash": self.hash, "stages": stages, **changes}))

    def distribute(self, *arguments, code=0, source=None):
        source = ["--plan", self.plan] if source is None else source
        command = [ROOT / "jobs" / "cluster" / "distribute", "-m", self.model, *source, "--to", "the model",
                   "--rsh", shlex.quote(str(self.rsh)), *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def files(self, host):
        return {p.name for p in (self.root / host / "the model").iterdir()}

    def test_each_board_gets_what_its_layers_need_and_only_once(self):
        self.distribute()
        self.assertEqual(self.files("board1"), {"layer_0000.h5", "embed.h5", "tokenizer.h5", "manifest.json"})
        self.assertEqual(self.files("board2"), {"layer_0001.h5", "layer_0002.h5", "manifest.json"})
        self.assertEqual(self.files("board3"), {"layer_0003.h5", "embed.h5", "output.h5", "tokenizer.h5",
                                                "manifest.json"})
        for host in HOSTS:
            for name in self.files(host):
                sent = (self.root / host / "the model" / name).read_bytes()
                self.assertEqual(sent, (self.model / name).read_bytes())
        logs = [(self.root / h / "log").read_text() for h in HOSTS]
        text = self.distribute()
        self.assertEqual(text.count("as they should be"), 3)
        self.assertEqual([(self.root / h / "log").read_text() for h in HOSTS], logs)  # nothing was sent

    def test_one_damaged_byte_costs_one_shard(self):
        self.distribute()
        path = self.root / "board2" / "the model" / "layer_0002.h5"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        text = self.distribute("--verify-only", code=1)
        self.assertRegex(text, r"board2: .*WRONG\n  layer_0002.h5: damaged")
        (self.root / "board2" / "log").unlink()
        text = self.distribute()
        self.assertRegex(text, r"board2: .*1 change\(s\)\n  layer_0002.h5: was damaged")
        self.assertEqual((self.root / "board2" / "log").read_text().count("dd of"), 1)
        self.assertEqual(path.read_bytes(), (self.model / "layer_0002.h5").read_bytes())
        self.assertIn("manifest.json", self.files("board2"))
        self.distribute("--verify-only")

    def test_it_goes_on_where_it_was_interrupted(self):
        """5,000,000 bytes of the embedding arrive, then the connection is lost; the others are served all the same."""
        (self.root / "board1" / "the model").mkdir()
        for name in ("layer_0000.h5",):
            (self.root / "board1" / "the model" / name).write_bytes((self.model / name).read_bytes())
        (self.root / "board1" / "break").write_text("5000000")
        text = self.distribute(code=1)
        self.assertIn("board1: connection lost", text)
        self.assertIn("manifest.json", self.files("board3"))
        self.assertNotIn("manifest.json", self.files("board1"))
        self.assertNotIn("embed.h5", self.files("board1"))
        text = self.distribute()
        sent = int(re.search(r"embed.h5: was missing, sent (\d+) bytes", text).group(1))
        self.assertEqual(sent, (self.model / "embed.h5").stat().st_size - 4 * (1 << 20))
        self.distribute("--verify-only")
        self.assertFalse([n for n in self.files("board1") if n.endswith(".part")])

    def test_another_plan_moves_files(self):
        self.distribute()
        self.write_plan([0, 2, 3, 4])
        self.assertIn("layer_0001.h5: was missing", self.distribute("--prune"))
        self.assertEqual(self.files("board2"), {"layer_0002.h5", "manifest.json"})
        hosts = self.root / "hosts"
        hosts.write_text("# as without a plan\nboard1 slots=1\nboard2 slots=1\n")
        self.distribute("--prune", source=["--hosts", hosts])  # the head weighs more than all four layers
        self.assertEqual(self.files("board2"), {"layer_0003.h5", "embed.h5", "output.h5", "tokenizer.h5",
                                                "manifest.json"})

    def test_boards_can_run_what_they_got(self):
        """Three ranks, each with its own board's folder, give the bits of one rank with all of the model."""
        hosts = self.root / "hosts"
        hosts.write_text("# as without a plan\nboard1 slots=1\nboard2 slots=1\n\nboard3 slots=1\n")
        self.distribute(source=["--hosts", hosts])
        target, ranks = self.root / "run.json", []
        for host in HOSTS:
            ranks += [":", "-n", "1", JUPITER, "run", "-m", self.root / host / "the model", "--raw", "-p", "hello",
                      "-n", "4", "--json", target]
        result = subprocess.run([*MPIRUN, *map(str, ranks[1:])], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        alone = self.run_json(self.model, "--raw", "-p", "hello", "-n", "4")
        self.assertEqual(json.loads(target.read_text())["logits_hash"], alone["logits_hash"])

    def test_a_plan_of_another_model_is_refused(self):
        self.write_plan([0, 1, 3, 4], model_hash=self.model_hash(self.tiny))
        self.assertIn(f"model_hash: expected {self.hash}", self.distribute(code=3))
        self.assertFalse((self.root / "board1" / "the model").exists())

    def test_bad_input(self):
        self.plan.write_text("{")
        self.assertIn("JSON", self.distribute(code=3))
        self.write_plan([0, 1, 2, 3])
        self.assertIn("layers up to 4", self.distribute(code=3))
        self.write_plan([0, 1, 2, 9])
        self.assertIn("layer_0004.h5", self.distribute(code=3))
        self.write_plan([0, 1, 3, 4], kind="profile")
        self.assertIn("profile", self.distribute(code=3))
        self.plan.unlink()
        self.distribute(code=3)
        self.distribute(source=[], code=2)
        hosts = self.root / "hosts"
        hosts.write_text("nowhere\nboard2\n")
        self.assertIn("nowhere", self.distribute(source=["--hosts", hosts], code=1))
        self.assertIn("manifest.json", self.files("board2"))
        hosts.write_text("-oProxyCommand=x\n")
        self.distribute(source=["--hosts", hosts], code=3)
        self.assertTrue(pathlib.Path(self.model / "manifest.json").exists())


if __name__ == "__main__":
    unittest.main()
