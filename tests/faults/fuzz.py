"""Fuzzing guided by coverage: ``python -m tests.faults.fuzz --runs 1000000``.

Each target of `targets.py` gets its share of the runs, in a process of its own with limited address space.  What libFuzzer
finds is minimised in no way: the input is written to the folder, and ``--input FILE`` runs it again.  Needs atheris
(``pip install atheris``; it has no build for every Python).
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from time import monotonic

# Python, NumPy, atheris and its tables take 600 MiB of addresses; nothing here may come near the rest.
_ADDRESSES_NBYTES = 2 * 1024**3
_SECONDS_PER_INPUT = 5
# Tracing every allocation takes twice the time: one input in so many is traced, and all of them have the address limit.
_TRACED = 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="inputs, of all targets together")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's generator; 0 draws one")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--folder", type=Path, help="where findings go; default: a new one in the temporary folder")
    parser.add_argument("--input", type=Path, help="run this file alone, on the one --target")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.runs, options.seed, options.folder)
        return 0
    from .targets import TARGETS, within

    names = options.target or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"--target must be one of {', '.join(TARGETS)}, not {unknown[0]}")
    if options.input:
        if len(names) != 1:
            parser.error("--input needs one --target")
        tracemalloc.start()
        within(TARGETS[names[0]].run, options.input.read_bytes())
        print(f"{names[0]}: taken or refused as it should be")
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gloompi-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{'target':10} {'inputs':>9} {'edges':>6} {'kept':>5} {'seconds':>8} {'peak MiB':>9}  result")
    findings = 0
    for name in names:
        findings += in_process(name, options.runs // len(names), options.seed, folder)
    return 1 if findings else 0


def in_process(name: str, runs: int, seed: int, folder: Path) -> bool:
    """Fuzz one target in a process of its own, print a line about it, and return whether something was found."""
    command = [sys.executable, "-m", "tests.faults.fuzz", "--one", name, "--runs", str(runs), "--seed", str(seed)]
    began = monotonic()
    done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=False)
    seconds = monotonic() - began
    log = folder / f"{name}.log"
    log.write_text(done.stdout + done.stderr)
    states = re.findall(r"#(\d+)\s+\w+.*?cov: (\d+).*?corp: (\d+).*?rss: (\d+)Mb", done.stderr)
    ran = re.search(r"Done (\d+) runs", done.stderr)
    inputs, edges, kept, peak = states[-1] if states else (0, 0, 0, 0)
    inputs = ran[1] if ran else inputs
    found = done.returncode != 0 or ran is None
    result = f"FOUND, see {log} and {folder}/{name}-*" if found else "nothing"
    print(f"{name:10} {inputs:>9} {edges:>6} {kept:>5} {seconds:>8.1f} {peak:>9}  {result}", flush=True)
    return found


def fuzz(name: str, runs: int, seed: int, folder: Path) -> None:
    """Fuzz one target in this process, and end it."""
    import atheris

    with atheris.instrument_imports(include=["gloompi"]):
        from .targets import CAP_NBYTES, MAX_INPUT_NBYTES, TARGETS, within

    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}-corpus-"))
    for number, good in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(good)
    count = 0

    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % _TRACED:
            target.run(data)
            return
        tracemalloc.start()
        try:
            within(target.run, data)
        finally:
            tracemalloc.stop()

    assert _ADDRESSES_NBYTES > CAP_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES_NBYTES, _ADDRESSES_NBYTES))
    arguments = [
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_INPUT_NBYTES}", f"-timeout={_SECONDS_PER_INPUT}"),
        *("-rss_limit_mb=1024", "-print_final_stats=0", f"-artifact_prefix={folder}/{name}-"),
    ]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
