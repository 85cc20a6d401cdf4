"""What `cmake --install` puts in place: commands that find each other and the program wherever the prefix lies, a
manual page for each of them and for each subcommand, completion, documents whose links still lead somewhere."""
import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from program import JUPITER, ROOT, ProgramTest, jupiter
from test_documents import known_options

BUILD = pathlib.Path(JUPITER).resolve().parent
COMMANDS = {"jupiter", "jupiter-run", "jupiter-serve", "jupiter-distribute", "jupiter-supervise", "jupiter-emulate", "jupiter-compare",
            "jupiter-draw-trace", "jupiter-outline-quality", "jupiter-judge"}
# A remote shell whose boards are this machine: HOST SCRIPT.
RSH = "#!/bin/sh\nexec sh -c \"$2\"\n"


@unittest.skipUnless((BUILD / "cmake_install.cmake").exists(), f"{BUILD} is no build folder")
class Install(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prefix = cls.folder / "a prefix"
        subprocess.run(["cmake", "--install", BUILD, "--prefix", cls.prefix], stdout=subprocess.DEVNULL, check=True)

    def call(self, command, *arguments, code=0):
        """An installed command, started elsewhere and without JUPITER; its standard output."""
        environment = {k: v for k, v in os.environ.items() if k != "JUPITER"}
        result = subprocess.run([self.prefix / "bin" / command, *map(str, arguments)], cwd="/", env=environment,
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(result.returncode, code, f"{command} {arguments}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def page(self, name):
        return gzip.decompress((self.prefix / f"share/man/man1/{name}.1.gz").read_bytes()).decode()

    def test_the_launcher_finds_the_program(self):
        prompt = ("run", "-m", self.tiny, "--raw", "-p", "hello", "-n", "4")
        self.assertEqual(self.call("jupiter-run", "-n", "2", *prompt), jupiter(*prompt).stdout)
        self.assertEqual(self.call("jupiter", "--version"), jupiter("--version").stdout)

    def test_shards_are_sent_and_a_batch_is_supervised(self):
        rsh = self.folder / "rsh"
        rsh.write_text(RSH)
        rsh.chmod(0o755)
        (self.folder / "hosts").write_text(f"{os.uname().nodename}\n")
        self.call("jupiter-distribute", "-m", self.tiny, "--hosts", self.folder / "hosts", "--to",
                  self.folder / "board", "--rsh", rsh)
        self.assertTrue((self.folder / "board" / "manifest.json").exists())
        self.call("jupiter-run", "-n", "1", "profile", "-m", self.tiny, "-o", self.folder / "cluster.json",
                  "--context", "64", "-t", "1")
        (self.folder / "in.jsonl").write_text(json.dumps({"id": 1, "prompt": "hello", "max_tokens": 4}) + "\n")
        self.call("jupiter-supervise", "-m", self.folder / "board", "-i", self.folder / "in.jsonl", "-o",
                  self.folder / "out.jsonl", "--cluster", self.folder / "cluster.json", "--rsh", rsh, "--", "--raw")
        self.assertEqual(json.loads((self.folder / "out.jsonl").read_text())["id"], 1)

    def test_every_command_explains_itself_and_has_a_page(self):
        self.assertEqual({p.name for p in (self.prefix / "bin").iterdir()}, COMMANDS)
        for command in COMMANDS - {"jupiter-emulate", "jupiter-judge"}:  # one needs root, the other only has words
            self.assertNotEqual(self.call(command, "--help"), "")
        for command in COMMANDS:
            self.assertIn(".SH SYNOPSIS", self.page(command))
        for helper in ("emulate-pacer", "emulate-burst"):
            self.assertTrue(os.access(self.prefix / "libexec/jupiter/jobs/emulate" / helper, os.X_OK))

    def test_pages_have_every_option(self):
        for subcommand, options in known_options().items():
            text = self.page(f"jupiter_{subcommand}").replace("\\-", "-")
            self.assertIn(f"jupiter_{subcommand}", self.page("jupiter").replace("\\-", "-"))
            for option in options:
                self.assertIn(f"\\fB{option}\\fR", text, subcommand)

    @unittest.skipUnless(shutil.which("groff"), "needs groff")
    def test_pages_are_well_formed(self):
        for page in (self.prefix / "share/man/man1").iterdir():
            result = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8"], check=True,
                                    capture_output=True, input=gzip.decompress(page.read_bytes()))
            self.assertEqual(result.stderr.decode(), "", page.name)

    def complete(self, *words):
        """What bash proposes for the last word."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _jupiter; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        file = self.prefix / "share/bash-completion/completions" / words[0]
        result = subprocess.run(["bash", "-c", script, "bash", file, *map(str, words)], cwd=self.folder,
                                stdout=subprocess.PIPE, text=True, check=True)
        return set(result.stdout.split())

    def test_completion(self):
        self.assertEqual(self.complete("jupiter", ""), {*known_options(), "--help", "--version"})
        self.assertEqual(self.complete("jupiter-run", "-n", "2", "ba"), {"batch"})
        for subcommand, options in known_options().items():
            self.assertEqual(self.complete("jupiter-run", "-n", "2", subcommand, "-"), options)
        self.assertEqual(self.complete("jupiter", "run", "-m", "ti"), {"tiny"})
        (self.folder / "prompt file").touch()
        self.assertEqual(self.complete("jupiter", "run", "-m", "prom"), set())
        self.assertEqual(self.complete("jupiter", "run", "-f", "prom"), {"prompt", "file"})
        self.assertEqual(self.complete("jupiter", "run", "--temp", "t"), set())

    def test_links_of_documents_lead_somewhere(self):
        top = self.prefix / "share/doc/jupiter"
        seen = 0
        for path in top.rglob("*.md"):
            text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
                if not re.match(r"\w+:", target):
                    self.assertTrue((path.parent / target).exists(), f"{path.relative_to(top)}: {target}")
                    seen += 1
        self.assertGreater(seen, 30)

    def test_nothing_names_the_source_tree(self):
        for path in self.prefix.rglob("*"):
            if path.is_symlink():
                self.assertFalse(os.path.isabs(os.readlink(path)), path)
                self.assertTrue(path.exists(), path)
            elif path.is_file() and path.suffix != ".gz" and path.stat().st_size < 1 << 20:
                self.assertNotIn(str(ROOT).encode(), path.read_bytes(), path)


if __name__ == "__main__":
    unittest.main()
