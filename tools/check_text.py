#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check what the compiler does not: licence lines, stray paths and spaces, links and code in the documents.

- every source file names its licence within its first three lines;
- no file names a path that exists on one machine only;
- no tabs in C, no trailing spaces, every text file ends in one line end;
- a link from a document to a file of this project leads somewhere;
- a code block that stands below a comment `from examples/NAME.c` equals that file, or a run of lines of it.

    tools/check_text.py [ROOT]        exit code 1 and one line per finding
    tools/check_text.py --self-test   plants one finding of each kind and expects it
"""
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE = re.compile(r"(\.(c|h|cu|cuh|cpp|py|sh|cmake)|/?CMakeLists\.txt|/?Makefile)$")
MACHINE_PATH = re.compile(r"/(?:home|root|work|Users|tmp/build[\w-]*)/[\w.]")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
QUOTED_CODE = re.compile(r"<!-- from (\S+) -->\n+```\w*\n(.*?)```", re.DOTALL)


def project_files(root):
    """What git tracks or would add; in a tree without git, every file outside build/."""
    git = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return sorted(root / line for line in set(git.stdout.splitlines()) if (root / line).is_file())
    return sorted(path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in ("build", ".git"))


def check_document(root, path, text):
    for target in LINK.findall(text):
        if "://" not in target and not (path.parent / target).exists():
            yield f"the link to {target} leads nowhere"
    for source, code in QUOTED_CODE.findall(text):
        if not (root / source).is_file():
            yield f"code is quoted from {source}, which is no file"
        elif not is_run_of_lines(code, (root / source).read_text()):
            yield f"the code quoted from {source} is not what that file says"


def is_run_of_lines(code, source):
    """Whether `code` is a run of lines of `source`, both without indentation."""
    quoted = [line.strip() for line in code.strip().splitlines()]
    lines = [line.strip() for line in source.splitlines()]
    return any(lines[i : i + len(quoted)] == quoted for i in range(len(lines) - len(quoted) + 1))


def check_file(root, path):
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if "\0" in text:
        return
    name = path.relative_to(root).as_posix()
    # Seeds and golden files are data: nothing to say about their form.
    if re.search(r"(^|/)(seeds|corpus|golden)/", name):
        return
    if SOURCE.search(name) and "SPDX-License-Identifier: Apache-2.0" not in "".join(text.splitlines(True)[:3]):
        yield "the first three lines name no licence (SPDX-License-Identifier: Apache-2.0)"
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"line {number} names a path of one machine"
        if line != line.rstrip():
            yield f"line {number} ends in spaces"
        if "\t" in line and re.search(r"\.(c|h|cu|cuh)$", name):
            yield f"line {number} has a tab"
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        yield "the file does not end in exactly one line end"
    if name.endswith(".md"):
        yield from check_document(root, path, text)


def check_tree(root):
    root = root.resolve()
    files = project_files(root)
    return [f"{path.relative_to(root)}: {finding}" for path in files for finding in check_file(root, path)], len(files)


def self_test():
    licence = "/* SPDX-License-Identifier: Apache-2.0 */\n"
    good = {
        "a.c": licence + "int a;\nint b;\n",
        "a.md": "[a](a.c) [out](https://example.org/x)\n\n<!-- from a.c -->\n```c\n  int a;\n  int b;\n```\n",
    }
    bad = {
        "b.c": "int b;\n",
        "c.c": licence + "/* see /" + "home/me/notes */\n",
        "d.c": licence + "int d; \n",
        "e.c": licence + "\tint e;\n",
        "f.c": licence + "int f;",
        "g.md": "[gone](gone.c)\n",
        "h.md": "<!-- from a.c -->\n```c\nint a;\nint c;\n```\n",
        "i.md": "<!-- from gone.c -->\n```c\nint a;\n```\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in good.items():
            (root / name).write_text(text)
        found, _ = check_tree(root)
        assert not found, f"a sound tree was refused: {found}"
        for name, text in bad.items():
            (root / name).write_text(text)
            found, _ = check_tree(root)
            assert len(found) == 1 and found[0].startswith(name + ":"), f"{name}: expected one finding, got {found}"
            (root / name).unlink()
    print(f"self-test passed: {len(bad)} planted findings found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent
    findings, count = check_tree(root)
    for line in findings:
        print(line)
    print(f"{count} files, {len(findings)} findings")
    return 1 if findings or not count else 0


if __name__ == "__main__":
    sys.exit(main())
