"""Fuzzing: ``python -m tests.faults.fuzz --runs 1000000``, and the same ``--with hypothesis --examples 1000000``.

The one is guided by coverage and needs atheris (``pip install 'gloompi[fuzz]'``; it has no build for every Python), the
other is not and needs hypothesis.  Each target gets its share of the inputs, in a process of its own with limited address
space.  Inputs that are found wanting are written to the folder, and ``--target NAME --input FILE`` runs one again.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import resource
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

# Python, NumPy, atheris and its tables take 600 MiB of addresses; nothing here may come near the rest.
_ADDRESSES_NBYTES = 2 * 1024**3
_SECONDS_PER_INPUT = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--with", choices=["atheris", "hypothesis"], default="atheris", dest="engine")
    parser.add_argument("--runs", "--examples", type=int, default=100_000, help="inputs, of all targets together")
    parser.add_argument("--seed", type=int, default=1, help="of the generator")
    parser.add_argument("--traced", type=int, default=4, help="one input in so many has its allocations traced")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--folder", type=Path, help="where findings go; default: a new one in the temporary folder")
    parser.add_argument("--input", type=Path, help="run this file alone, on the one --target")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        logging.disable()  # strangers are worth a line in a log, a million of them are not
        fuzz = guided if options.engine == "atheris" else drawn
        fuzz(options.one, options.runs, options.seed, options.traced, options.folder)
        return 0
    from .target import CAP_NBYTES, Fuzzed
    from .targets import TARGETS

    names = options.target or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"--target must be one of {', '.join(TARGETS)}, not {unknown[0]}")
    if options.input:
        if len(names) != 1:
            parser.error("--input needs one --target")
        fuzzed = Fuzzed(TARGETS[names[0]], 1)
        fuzzed(options.input.read_bytes())
        print(f"{names[0]}: taken or refused as it should be; {fuzzed.peak} bytes allocated of at most {CAP_NBYTES}")
        return 0
    if find_spec(options.engine) is None:
        print(f"{options.engine} is not installed: pip install {options.engine}", file=sys.stderr)
        return 2
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gloompi-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{options.engine}, seed {options.seed}, allocations traced for one input in {options.traced}")
    print(f"{'target':11} {'inputs':>9} {'edges':>6} {'kept':>5} {'seconds':>8} {'peak KiB':>9} {'cap KiB':>8}  result")
    findings, inputs, began = 0, 0, monotonic()
    for name in names:
        found, count = in_process(options, name, options.runs // len(names), folder)
        findings += found
        inputs += count
    print(f"{'together':11} {inputs:>9} {'':>6} {'':>5} {monotonic() - began:>8.1f}  {findings} target(s) with findings")
    return 1 if findings else 0


def in_process(options: argparse.Namespace, name: str, runs: int, folder: Path) -> tuple[bool, int]:
    """Fuzz one target in a process of its own, print a line about it; return whether something was found, and the inputs."""
    from .target import CAP_NBYTES

    state = folder / f"{name}.json"
    state.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.faults.fuzz", "--one", name, "--with", options.engine, "--runs", str(runs)]
    command += ["--seed", str(options.seed), "--traced", str(options.traced), "--folder", str(folder)]
    began = monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = monotonic() - began
    log = folder / f"{name}.log"
    log.write_text(done.stdout + done.stderr)
    count, peak = json.loads(state.read_text()) if state.exists() else (0, 0)
    edges = kept = "-"
    if options.engine == "atheris":
        ran = re.search(r"Done (\d+) runs", done.stderr)
        states = re.findall(r"#(\d+)\s+\w+.*?cov: (\d+).*?corp: (\d+)", done.stderr)
        count, edges, kept = (int(states[-1][0]), *states[-1][1:]) if states else (0, edges, kept)
        count = int(ran[1]) if ran else count
    found = done.returncode != 0 or count < runs
    result = f"FOUND, see {log} and {folder}/{name}-*" if found else "nothing"
    print(
        f"{name:11} {count:>9} {edges:>6} {kept:>5} {seconds:>8.1f} {peak / 1024:>9.0f} {CAP_NBYTES / 1024:>8.0f}  {result}",
        flush=True,
    )
    return found, count


def limit_addresses() -> None:
    """What nobody traces has a limit too."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES_NBYTES, _ADDRESSES_NBYTES))


def guided(name: str, runs: int, seed: int, traced: int, folder: Path) -> None:
    """Fuzz one target in this process with atheris, and end it."""
    import atheris

    with atheris.instrument_imports(include=["gloompi"]):
        from .target import MAX_INPUT_NBYTES, Fuzzed
        from .targets import TARGETS

    corpus = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}-corpus-"))
    for number, good in enumerate(TARGETS[name].seeds):
        (corpus / str(number)).write_bytes(good)
    fuzzed = Fuzzed(TARGETS[name], traced)
    state, peak = folder / f"{name}.json", 0

    def run(data: bytes) -> None:
        nonlocal peak
        fuzzed(data)
        if fuzzed.peak > peak:  # libFuzzer ends the process without a word to Python
            peak = fuzzed.peak
            state.write_text(json.dumps([fuzzed.count, peak]))
            (folder / f"{name}-largest").write_bytes(data)

    limit_addresses()
    arguments = [
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_INPUT_NBYTES}", f"-timeout={_SECONDS_PER_INPUT}"),
        *("-rss_limit_mb=1024", "-print_final_stats=0", f"-artifact_prefix={folder}/{name}-"),
    ]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], run)
    atheris.Fuzz()


def drawn(name: str, runs: int, seed: int, traced: int, folder: Path) -> None:
    """Fuzz one target in this process with hypothesis."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from .target import GENERATED, NOISE_NBYTES, Fuzzed, generated
    from .targets import TARGETS

    target = TARGETS[name]
    fuzzed = Fuzzed(target, traced)

    @seeded(seed)
    @settings(
        max_examples=-(-runs // GENERATED),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=NOISE_NBYTES, max_size=NOISE_NBYTES))
    def check(noise: bytes) -> None:
        for data in generated(target, noise):
            try:
                fuzzed(data)
            except BaseException:
                (folder / f"{name}-crash").write_bytes(data)
                raise

    limit_addresses()
    try:
        check()
    finally:
        (folder / f"{name}.json").write_text(json.dumps([fuzzed.count, fuzzed.peak]))


if __name__ == "__main__":
    sys.exit(main())
