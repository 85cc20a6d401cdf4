"""The rules of the documents, which need no build: links and paths lead somewhere, what is named exists in the code,
lines and the README are short, every invariant of speculation has its test, pictures are those that their scripts draw,
environment variables are in the manual.

A path is a word in backticks or in a code block that begins with a folder of the repository (or of the document). A
name with () is a function of the code, `CamelCase` a class, `Suite.Name` a test. The README has at most 700 words: code
blocks, tables, comments and pictures are not counted. Lines have at most 120 characters outside tables and code."""
import functools
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["io", "kernels", "parallel", "app", "jobs", "tests", ".ci"]
SOURCES = (".cpp", ".hpp", ".py", ".sh", ".cmake", ".txt", ".sbatch")
WORDS, COLUMNS = 700, 120
PICTURES = {"jobs/bench/draw-pipeline.py": "jobs/bench/pipeline.svg",
            "jobs/bench/draw-comparison.py": "jobs/bench/comparison.svg"}


@functools.cache
def files():
    inside = (p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts)
    return [p for p in [*ROOT.glob("*"), *inside] if p.is_file()]


@functools.cache
def documents():
    return {p: p.read_text(encoding="utf-8") for p in files() if p.suffix == ".md"}


@functools.cache
def code():
    """Everything that is code, scripts without an ending included."""
    texts = {}
    for p in files():
        if p.suffix in SOURCES or (p.suffix == "" and p.read_bytes()[:2] == b"#!"):
            if "data" not in p.parts and p != pathlib.Path(__file__).resolve():
                texts[p] = p.read_text(encoding="utf-8")
    return texts


def lines_and_code(text):
    """Each line with its number, and whether it belongs to a code block (fenced, or indented after an empty line)."""
    fenced = indented = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        indented = line.startswith("    ") and (indented or not before.strip()) and not before.lstrip().startswith("- ")
        yield number, line, fenced or fence or indented
        fenced ^= fence
        before = line


def prose(text):
    """The text with its code blocks blanked."""
    return "\n".join("" if is_code else line for _, line, is_code in lines_and_code(text))


def spans(text):
    """Code within sentences; it may go on in the next line."""
    return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose(text))]


def code_words(text):
    """Words of spans and code blocks, without what quotes and closes them."""
    blocks = "\n".join(line for _, line, is_code in lines_and_code(text) if is_code)
    for word in " ".join([*spans(text), blocks]).split():
        yield re.sub(r":\d+$", "", word.strip("\"'(),;:").rstrip("."))


def anchor(heading):
    """As GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"`|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
    return kept.replace(" ", "-")


def anchors(text):
    return {anchor(h) for h in re.findall(r"(?m)^#+ (.*)$", prose(text))}


class Documents(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for path, text in documents().items():
            for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
                if re.match(r"\w+:", target):
                    continue
                name, _, place = target.partition("#")
                with self.subTest(document=path.relative_to(ROOT), link=target):
                    goal = (path.parent / name).resolve() if name else path
                    self.assertTrue(goal.exists(), "no such file")
                    if place:
                        self.assertIn(place, anchors(goal.read_text(encoding="utf-8")))

    def test_paths_exist(self):
        for path, text in documents().items():
            own = [p.name for p in path.parent.iterdir() if p.is_dir()]
            for word in code_words(text):
                first, slash, rest = word.partition("/")
                if not slash or not re.fullmatch(r"[\w./*-]*", rest) or re.search(r"NAME|FILE|FOLDER|\.\.\.", word):
                    continue  # not a path, or one that the reader is to fill in
                roots = [ROOT] * (first in FOLDERS) + [path.parent] * (first in own and path.parent != ROOT)
                if roots:
                    with self.subTest(document=path.relative_to(ROOT), path=word):
                        self.assertTrue(any(any(r.glob(word.rstrip("/"))) for r in roots), "no such file")

    def test_source_files_that_are_named_exist(self):
        names = {p.name for p in files()}
        for path, text in documents().items():
            for word in code_words(text):
                if re.fullmatch(r"[\w-]+\.(cpp|hpp|py|sh|cmake|sbatch)", word) and "NAME" not in word:
                    self.assertTrue(word in names, f"{path.relative_to(ROOT)}: {word}")

    def test_functions_and_classes_that_are_named_exist(self):
        words = set(re.findall(r"\w+", "\n".join(code().values())))
        for path, text in documents().items():
            for span in spans(text):
                named = re.fullmatch(r"((?:\w+::)*\w+)\(\)", span) or re.fullmatch(
                    r"((?:[A-Z]\w+::)\w+|[A-Z][a-z0-9]+[A-Z]\w*)", span)
                for part in named[1].split("::") if named and "NAME" not in span else []:
                    self.assertTrue(part in words, f"{path.relative_to(ROOT)}: {span}")

    def test_tests_that_are_named_exist(self):
        text = "\n".join(t for p, t in code().items() if "tests" in p.parts)
        known = {f"{s}.{n}" for s, n in re.findall(r"TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", text)}
        known |= set(re.findall(r"(?m)^ *(?:def|class) (\w+)", text)) | {p.stem for p in files()}
        for path, document in documents().items():
            for span in spans(document):
                if re.fullmatch(r"[A-Z]\w+\.[A-Z]\w+|test_[a-z]\w+", span) and not span.endswith(".md"):
                    self.assertTrue(span in known, f"{path.relative_to(ROOT)}: {span}")

    def test_every_invariant_of_speculation_has_a_test_of_its_own(self):
        text = documents()[ROOT / "parallel" / "pipeline" / "SPECULATION.md"]
        rules = re.split(r"(?m)^\d+\. \*\*", text[text.index("## Invariants"):text.index("## Costs")])[1:]
        tests = [re.findall(r"`Invariants\.\w+`", rule) for rule in rules]
        self.assertEqual([len(names) for names in tests], [1] * 16)
        self.assertEqual(len({names[0] for names in tests}), 16)

    def test_lines_are_short(self):
        for path, text in documents().items():
            for number, line, is_code in lines_and_code(text):
                if not is_code and not line.startswith("|"):
                    self.assertLessEqual(len(line), COLUMNS, f"{path.relative_to(ROOT)}:{number}")

    def test_the_readme_is_short(self):
        text = re.sub(r"<!--.*?-->|!\[.*?\]\(.*?\)", "", prose(documents()[ROOT / "README.md"]), flags=re.DOTALL)
        count = sum(len(line.split()) for line in text.splitlines() if not line.startswith("|"))
        self.assertLessEqual(count, WORDS)

    def test_comments_cite_documents_that_exist(self):
        decisions = set(re.findall(r"(?m)^## (\d+)\.", documents()[ROOT / "parallel" / "DESIGN.md"]))
        for path, text in code().items():
            for name in re.findall(r"[\w/-]*\w\.md\b", text) if path.suffix in (".cpp", ".hpp") else []:
                self.assertTrue((ROOT / name).is_file(), f"{path.relative_to(ROOT)} cites {name}")
            for number in re.findall(r"DESIGN\.md, decision (\d+)", text):
                self.assertIn(number, decisions, path.relative_to(ROOT))

    def test_environment_variables_are_in_the_manual(self):
        manual = documents()[ROOT / "app" / "README.md"]
        listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", manual[manual.index("## Environment variables"):]))
        patterns = [r'getenv\("(\w+)"\)', r'environ(?:\.get\(|\[)["\'](\w+)["\']', r"\$\{([A-Z][A-Z0-9_]+)(?:[:+-]|:-)"]
        for path, text in code().items():
            for pattern in patterns if "tests" not in path.parts else []:
                for name in re.findall(pattern, text):
                    self.assertTrue(name in listed, f"{path.relative_to(ROOT)}: {name}")

    def test_pictures_are_those_that_their_scripts_draw(self):
        with tempfile.TemporaryDirectory() as folder:
            for script, picture in PICTURES.items():
                made = pathlib.Path(folder) / "picture.svg"
                subprocess.run([sys.executable, str(ROOT / script), "-o", str(made)], check=True)
                self.assertEqual(made.read_text(encoding="utf-8"), (ROOT / picture).read_text(encoding="utf-8"),
                                 f"{picture}: run python3 {script}")

    def test_the_check_itself_finds_something(self):
        self.assertGreater(len(documents()), 10)
        self.assertGreater(len(code()), 200)
        self.assertEqual(anchor("Numerics: why the bits are the same"), "numerics-why-the-bits-are-the-same")
        self.assertIn("jobs/emulate/emulate", list(code_words("see\n\n    sudo jobs/emulate/emulate up\n")))


if __name__ == "__main__":
    unittest.main()
