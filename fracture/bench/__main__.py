"""The command `python -m fracture.bench`; see the package."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path

from fracture import bench
from fracture.bench import report
from fracture.bench.tools import QUICK, ROOT, WARM_UP, Amount, Json, Skipped, cores, rounded

OUT = ROOT / "models"
VERSIONS = ("torch", "torchvision", "timm", "grad-cam", "torchcam", "gradio", "numpy", "pillow",
            "onnxruntime", "openvino")  # fmt: skip
# Name of each part: its function and its module, imported when its turn comes.
PARTS = {
    "reading": ("readings", "models"),
    "networks": ("networks", "models"),
    "backends": ("backends", "models"),
    "growth": ("growth", "models"),
    "training": ("training", "models"),
    "batch": ("batch", "folders"),
    "start": ("start", "app"),
    "app": ("through_the_app", "app"),
    "sizes": ("sizes", "folders"),
    "many": ("many", "folders"),
    "starts": ("starts", "app"),
}
ALONE = frozenset({"many", "starts"})  # with them a run would last too long: only if asked for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.readme and options.only:
        parser.error("--readme shows all parts: leave --only out")
    if ALONE.intersection(options.only) and len(options.only) > 1:
        parser.error(f"{' and '.join(sorted(ALONE))} are measured by themselves")
    name = "_".join(["benchmark", *options.only, *(["quick"] if options.quick else [])])
    out = options.out or OUT / f"{name}.json"
    if options.readme:
        return report.write(out, ROOT)
    began = time.perf_counter()
    amount = QUICK if options.quick else Amount()
    values: Json = {
        "date": dt.date.today().isoformat(),
        "quick": options.quick,
        "machine": machine(),
        "settings": {
            "rounds": amount.rounds,
            "warm_up": WARM_UP,
            "threads": [1, 2],
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "film": "simulated, 2,000 x 2,500 pixels, JPEG, grey",
        },
        "parts": {},
    }
    for part in options.only or [p for p in PARTS if p not in ALONE]:
        start = time.perf_counter()
        print(f"{start - began:6.0f} s  {part}", file=sys.stderr, flush=True)
        function, module = PARTS[part]
        measure: Callable[[Amount], Json] = getattr(
            import_module(f"fracture.bench.{module}"), function
        )
        try:
            found = measure(amount)
        except Skipped as reason:
            found = {"skipped": str(reason)}
        except Exception as error:  # the other parts are worth keeping
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
        values["parts"][part] = found | {"took_s": time.perf_counter() - start}
        values["seconds"] = round(time.perf_counter() - began)
        # after each part, so that a run that is cut off leaves what it has
        out.write_text(json.dumps(rounded(values), indent=1) + "\n")
    print(f"wrote {out} after {values['seconds']} s")
    return int(any("failed" in part for part in values["parts"].values()))


def machine() -> Json:
    """What the figures were measured on."""
    found: Json = {
        "processor": _processor(),
        "cores": cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    found["versions"] = {name: _version(name) for name in VERSIONS}
    return found


def _processor() -> str:
    """Name and the vector instructions that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_bf16") if flag in flags]
    return ", ".join([facts.get("model name", platform.machine()), *known])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fracture.bench",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="the JSON (default: in models/, by the parts)")
    parser.add_argument("--quick", action="store_true", help="few repetitions: figures mean little")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", choices=PARTS, default=[],
        help=f"some parts only, into a JSON of their own: {', '.join(PARTS)} "
        f"({' and '.join(sorted(ALONE))} are left out unless asked for)",
    )  # fmt: skip
    parser.add_argument(
        "--readme", action="store_true", help="write the plot and README's table from the JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
