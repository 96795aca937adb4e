"""Checks whether this machine can install and run the project, before anything is installed:
`python check_machine.py [FOLDER]`.

It runs on any Python 3 with only the standard library. It prints a line for each fault and exits with status 2.
"""

import os
import shutil
import sys

PYTHONS = ((3, 10), (3, 11), (3, 12))
"""The versions that fairseq2 0.8.1 has builds for."""
DISK_GB = 9
"""The environment takes 7.5 GB, most of it PyTorch's CUDA libraries; models, speech and caches take 1."""
MEMORY_GB = 4
"""The demo's training takes 3 GB."""


def main(folder):
    problems = [problem for problem in (check_python(), check_disk(folder), check_memory()) if problem]
    for problem in problems:
        print("error: " + problem, file=sys.stderr)
    return 2 if problems else 0


def check_python():
    found = sys.version_info[:2]
    if found in PYTHONS:
        return None
    names = ["python{}.{}".format(*version) for version in PYTHONS]
    usable = [name for name in reversed(names) if shutil.which(name)]
    advice = f"run `make PYTHON={usable[0]} ...`" if usable else "install one and run `make PYTHON=python3.11 ...`"
    return (
        f"Python: found {found[0]}.{found[1]} ({sys.executable}), expected 3.10, 3.11 or 3.12, which fairseq2 0.8.1 is "
        f"built for; {advice}"
    )


def check_disk(folder):
    if os.path.exists(os.path.join(folder, ".venv", ".installed")):
        return None
    free = shutil.disk_usage(folder).free / 1e9
    if free >= DISK_GB:
        return None
    return f"disk: found {free:.1f} GB free in {os.path.abspath(folder)}, expected {DISK_GB} GB"


def check_memory():
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # not on every system
        return None
    return None if total >= MEMORY_GB else f"memory: found {total:.1f} GB, expected {MEMORY_GB} GB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "."))
