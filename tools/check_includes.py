#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check who includes whom: the rooms may only look down.

    core <- format <- quantize        core, format, pack <- backend <- plan <- tune <- api

cli, examples and the tests of the API and the command see only w4a16.h. kernels/ never includes src/, and
w4a16.h includes two standard headers. Lines are read as text: an include inside #if counts too.

    tools/check_includes.py [ROOT]        exit code 1 and one line per violation
    tools/check_includes.py --self-test   plants one violation of each rule and expects it to be found
"""
import pathlib
import re
import sys
import tempfile

BELOW_BACKEND = {"core", "format", "pack"}
MAY_INCLUDE = {
    "core": {"core"},
    "format": {"core", "format"},
    "quantize": {"core", "format", "quantize"},
    "pack": {"core", "pack"},
    "backend": BELOW_BACKEND | {"backend"},
    "plan": BELOW_BACKEND | {"backend", "plan"},
    "tune": BELOW_BACKEND | {"backend", "plan", "tune"},
    "api": BELOW_BACKEND | {"backend", "plan", "tune", "api", "quantize"},
}
SEES_KERNELS = {"pack", "backend", "plan", "tune"}  # the shared headers of kernels/common
PUBLIC_ONLY = ("cli", "examples", "tests/api", "tests/cli", "tests/install")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
SUFFIXES = {".c", ".h", ".cu", ".cuh", ".cpp"}


def includes(path):
    """(written name, in quotes?) of each include directive."""
    return [(quoted or angled, bool(quoted)) for quoted, angled in INCLUDE.findall(path.read_text())]


def resolve(root, path, name):
    """The file of this project that `name` means for the compiler, or None."""
    for folder in (path.parent, root / "include", root / "src", root / "kernels" / "common", root / "kernels", root / "tests"):
        if (folder / name).is_file():
            return (folder / name).resolve()
    return None


def place(root, path):
    """("src", "core"), ("kernels", ""), ("include", ""), or (top folder, "")."""
    parts = path.relative_to(root).parts
    return (parts[0], parts[1]) if parts[0] == "src" and len(parts) > 2 else (parts[0], "")


def reachable(root, path, seen):
    """All project files that `path` includes, however indirectly."""
    for name, _ in includes(path):
        target = resolve(root, path, name)
        if target and target not in seen:
            seen.add(target)
            reachable(root, target, seen)
    return seen


def check_file(root, path):
    top, room = place(root, path)
    relative = path.relative_to(root).as_posix()
    if any(relative.startswith(folder + "/") for folder in PUBLIC_ONLY):
        for target in sorted(reachable(root, path, set())):
            if place(root, target)[0] in ("src", "kernels"):
                yield f"{relative}: reaches {target.relative_to(root)}, but may see only w4a16.h"
        return
    for name, quoted in includes(path):
        target = resolve(root, path, name)
        if not target:
            if quoted:
                yield f'{relative}: "{name}" is no file of this project'
            continue
        target_top, target_room = place(root, target)
        if top == "include":
            yield f"{relative}: the public header includes {name}"
        elif top == "kernels" and target_top != "kernels":
            yield f"{relative}: kernels include {name}, which is outside kernels/"
        elif top == "src" and target_top == "kernels":
            if room not in SEES_KERNELS:
                yield f"{relative}: {room} includes {name} of kernels/, which only {sorted(SEES_KERNELS)} may"
        elif top == "src" and target_top == "src":
            if target_room not in MAY_INCLUDE.get(room, set()):
                yield f"{relative}: {room} includes {name}, but may include only {sorted(MAY_INCLUDE.get(room, set()))}"
        elif top == "src" and target_top != "include":
            yield f"{relative}: the library includes {name} of {target_top}/"


def check_tree(root):
    root = root.resolve()
    violations, count = [], 0
    for top in ("include", "src", "kernels", "cli", "examples", "bench", "tests"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                violations += check_file(root, path)
                count += 1
    return violations, count


def self_test():
    good = {
        "include/w4a16.h": "#include <stdint.h>\n",
        "kernels/common/layout.h": "#include <stdint.h>\n",
        "src/core/a.h": '#include "w4a16.h"\n',
        "src/format/a.h": '#include "core/a.h"\n#include <jansson.h>\n',
        "src/quantize/a.h": '#include "format/a.h"\n',
        "src/pack/a.c": '#include "core/a.h"\n#include "layout.h"\n',
        "src/backend/backend.h": '#include "core/a.h"\n',
        "src/backend/cpu/a.c": '#include "backend/backend.h"\n',
        "src/plan/a.h": '#include "backend/backend.h"\n',
        "src/api/a.c": '#include "plan/a.h"\n#include "quantize/a.h"\n',
        "cli/a.c": '#include "w4a16.h"\n',
        "tests/shared.h": "#include <stdint.h>\n",
        "tests/api/a.c": '#include "shared.h"\n#include "w4a16.h"\n',
        "tests/core/a.c": '#include "core/a.h"\n',
    }
    bad = {
        "src/core/b.c": '#include "format/a.h"\n',
        "src/format/b.c": '#include "quantize/a.h"\n',
        "src/pack/b.c": '#include "format/a.h"\n',
        "src/backend/cpu/b.c": '#include "plan/a.h"\n',
        "src/core/c.c": '#include "layout.h"\n',
        "src/core/d.c": '#include "no_such.h"\n',
        "src/core/e.c": '#if 0\n#include "../../tests/shared.h"\n#endif\n',
        "kernels/common/b.h": '#include "../../src/core/a.h"\n',
        "cli/b.c": '#include "../src/core/a.h"\n',
        "tests/api/b.c": '#include "between.h"\n',
        "examples/b.c": '#include "core/a.h"\n',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)

        def write(files):
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)

        write(good)
        write({"tests/between.h": '#include "core/a.h"\n'})
        found, _ = check_tree(root)
        assert not found, f"a sound tree was refused: {found}"
        for name, text in bad.items():
            write({name: text})
            found, _ = check_tree(root)
            assert len(found) == 1 and found[0].startswith(name + ":"), f"{name}: expected one violation, found {found}"
            (root / name).unlink()
    print(f"self-test passed: {len(bad)} planted violations found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent
    violations, count = check_tree(root)
    for line in violations:
        print(line)
    print(f"{count} files, {len(violations)} violations of the include rule")
    return 1 if violations or not count else 0


if __name__ == "__main__":
    sys.exit(main())
