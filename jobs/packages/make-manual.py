#!/usr/bin/env python3
"""Makes manual pages and the completion for bash: make-manual.py -o FOLDER SCRIPT... --program PROGRAM...

PROGRAM is how jupiter is started here (with an emulator in front where it was built for another processor). What its
subcommands and options are, `jupiter --describe-options` tells: nothing of it is written down twice. jupiter.1 lists the
subcommands, jupiter_NAME.1 is the page of one (`man jupiter_NAME`; a hyphen would clash with jupiter-run, the
launcher). SCRIPT is PAGE=FILE: a Python script whose docstring, "What it does: NAME how it is called" and an
explanation, becomes the page PAGE.1. Pages are compressed, as Debian wants them, and of equal input equal."""
import argparse
import ast
import gzip
import json
import pathlib
import re
import subprocess

EXIT_CODES = (("0", "done"), ("1", "a regression, or a run that failed"), ("2", "usage"),
              ("3", "an unreadable or invalid file"), ("4", "does not fit in memory"),
              ("5", "a peer or the network failed"), ("130, 143", "interrupted, terminated"))
FOLDER = pathlib.Path(__file__).resolve().parent


# --------------------------------------------------------------------------------------------------------- sources

def describe(program):
    """The subcommands and the version, as the program tells them."""
    def output(option):
        return subprocess.run([*program, option], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              check=True).stdout
    text, commands = output("--describe-options"), []
    while text:
        command, end = json.JSONDecoder().raw_decode(text)
        text = text[end:].lstrip()
        commands.append(command)
        for group in command["groups"]:
            group["options"] = [with_spellings(o, command["positional"]) for o in group["options"]]
    return commands, output("--version").split()[1]


def with_spellings(option, positional):
    """Adds how an option may be written, in no way if it is the one that stands without a name on the command line.
    -ctk, -ctv and -sys stand in front of their texts: "-ctk: type of ..."."""
    spellings = [dashes + option[name] for name, dashes in (("short", "-"), ("long", "--")) if option[name]]
    if found := re.match(r"(-\w{3}): (.*)", option["help"], re.DOTALL):
        spellings.insert(0, found[1])
        option["help"] = found[2]
    option["spellings"] = spellings if option["long"] != positional else []
    return option


def script_page(page, path):
    """Title, synopsis and explanation of a script's docstring, in which the script goes by the page's name."""
    first, _, rest = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).partition("\n")
    what, _, call = first.partition(": ")
    name, _, words = call.partition(" ")
    if pathlib.Path(name).name != path.name:
        raise SystemExit(f"{path}: expected a docstring 'What it does: {path.name} ...', found '{first}'")
    return what, words, re.sub(rf"(?m)^(  +){path.name} ", rf"\1{page} ", rest.strip("\n"))


# ------------------------------------------------------------------------------------------------------------ pages

def roff(text):
    """Text as it is: no escapes, no requests, hyphens that can be searched for."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def head(page, version, what):
    return [f'.TH "{page.upper()}" "1" "" "jupiter {version}" "Jupiter"', ".SH NAME", f"{roff(page)} \\- {roff(what[:1].lower() + what[1:])}"]


def bold(word):
    return f"\\fB{roff(word)}\\fR"


def option_lines(option):
    value = f"\\fI{roff(option['value'])}\\fR" if option["value"] else ""
    text = option["help"]
    if option["default"] and "(default" not in text:
        text += f" (default: {option['default']})"
    return [".TP", ", ".join(f"{bold(s)} {value}".rstrip() for s in option["spellings"]) or value, roff(text)]


def title(command):
    """The first sentence of its summary, without a full stop."""
    return re.split(r"[.;] |\.$", command["summary"])[0]


def subcommand_page(command, version):
    name = command["command"]
    positional = [o["value"] for group in command["groups"] for o in group["options"] if not o["spellings"]]
    lines = head(f"jupiter_{name}", version, title(command))
    lines += [".SH SYNOPSIS", f"{bold('jupiter ' + name)} {roff(' '.join(['[options]', *positional]))}"]
    lines += [".SH DESCRIPTION", roff(command["summary"]), ".SH OPTIONS"]
    for group in sorted(command["groups"], key=lambda g: g["heading"] == ""):  # --help and the like last
        lines += [f".SS {roff(group['heading'] or 'General')}"] if len(command["groups"]) > 1 else []
        for option in group["options"]:
            lines += option_lines(option)
    return lines + exit_lines() + see_also(["jupiter", "jupiter-run"])


def exit_lines():
    lines = [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES:
        lines += [".TP", bold(code), roff(meaning)]
    return lines


def see_also(pages):
    return [".SH SEE ALSO", ",\n".join(f"\\fB{roff(p)}\\fR(1)" for p in pages)]


def main_page(commands, scripts, version):
    lines = head("jupiter", version, "runs a large language model over a pipeline of boards")
    call = "\\fISUBCOMMAND\\fR [\\fIoptions\\fR]"
    lines += [".SH SYNOPSIS", f"{bold('jupiter')} {call}", ".br",
              f"{bold('jupiter-run')} [{bold('-n')} \\fIP\\fR] [\\fIoptions of mpirun\\fR] {call}"]
    lines += [".SH DESCRIPTION", "Every rank of the MPI job is a stage of a pipeline and holds some of the model's layers.",
              "The answer is the same, bit for bit, on any number of ranks.", ".SH SUBCOMMANDS"]
    for command in commands:
        lines += [".TP", bold(command["command"]), f"{roff(title(command))}; {bold('jupiter_' + command['command'])}(1)"]
    return lines + exit_lines() + see_also([f"jupiter_{c['command']}" for c in commands] + sorted(scripts))


def script_lines(page, path, version):
    """A docstring keeps its lines and columns."""
    what, call, rest = script_page(page, path)
    lines = head(page, version, what)
    lines += [".SH SYNOPSIS", f"{bold(page)} {roff(call)}", ".SH DESCRIPTION", ".nf", roff(rest), ".fi"]
    return lines + see_also(["jupiter"])


# ------------------------------------------------------------------------------------------------------- completion

def completion(commands):
    """The static part, below the options of each subcommand: all of them, and those that files or folders follow."""
    lines = ["# Completion of jupiter and jupiter-run. Made of `jupiter --describe-options`; the function is that of",
             "# jobs/packages/completion.bash.",
             "declare -gA _jupiter_options _jupiter_files _jupiter_folders _jupiter_values"]
    for command in commands:
        options = [o for group in command["groups"] for o in group["options"]]
        table = {"options": options, "values": [o for o in options if o["value"]],
                 "files": [o for o in options if o["value"] == "FILE"],
                 "folders": [o for o in options if o["value"] == "DIR"]}
        for name, chosen in table.items():
            words = " ".join(s for o in chosen for s in o["spellings"])
            lines.append(f"_jupiter_{name}[{command['command']}]='{words}'")
    return "\n".join(lines) + "\n\n" + (FOLDER / "completion.bash").read_text(encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("scripts", nargs="*", metavar="PAGE=FILE")
    parser.add_argument("--program", nargs=argparse.REMAINDER, required=True)
    options = parser.parse_args()
    commands, version = describe(options.program)
    scripts = {page: pathlib.Path(path) for page, _, path in (pair.partition("=") for pair in options.scripts)}
    pages = {"jupiter": main_page(commands, scripts, version)}
    pages.update((f"jupiter_{c['command']}", subcommand_page(c, version)) for c in commands)
    pages.update((page, script_lines(page, path, version)) for page, path in scripts.items())
    options.output.mkdir(parents=True, exist_ok=True)
    for page, lines in pages.items():
        text = "\n".join(lines) + "\n"
        (options.output / f"{page}.1.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (options.output / "jupiter.bash").write_text(completion(commands), encoding="utf-8")


if __name__ == "__main__":
    main()
