"""Many clients at once against the app: is every answer right, and how long does it take?

    python tests/load.py --clients 1 4 16 32 --requests 200 --out load.json

Starts the app in a process of its own. Each client has simulated films, classes and methods of
its own and asks again and again, as fast as it is answered; every answer is compared with the one
to the same question asked alone. A request is all that somebody waits for: upload, queue, reading,
and the picture fetched. `--door page` asks as the page in a browser does instead of the endpoint;
`--sweep 1x1 1x2 2x2` measures torch threads x readings at a time, each with an app of its own.
`--out` adds what was measured to a file of runs; `python tests/load.py --table load.json
docs/growth.md` writes that file's figures into a page of the docs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDES = (512, 1024, 2048)  # heights of the films, pixels: a web picture to a hospital's
QUESTIONS = 30  # every method, class and height comes up, in equal shares
SAME = 1e-5  # how far two probabilities of the same film may lie apart
WARM_UP = 0.2  # of a run, before memory counts
PACE = ("requests_per_second", "p50_s", "p95_s", "p99_s")


@dataclass(frozen=True)
class Job:
    """One question: a film's file, the method of its map and the class that the map explains."""

    film: Path
    method: str
    target: str


@dataclass(frozen=True)
class Said:
    """One answer: what the app said, its picture as bytes, the highest place in the queue seen."""

    reading: dict[str, Any]
    picture: bytes
    place: int = 0


class QueueFull(Exception):
    """The app took no further request, and said so."""


@dataclass
class Watch:
    """What was seen in one run: seconds a request, refusals, failures, memory of the server."""

    seconds: list[float] = field(default_factory=list)
    full: int = 0
    place: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    memory: list[tuple[float, int, float]] = field(default_factory=list)  # s, requests, MB


# --- films -----------------------------------------------------------------------------------


def jobs(folder: Path, number: int, sides: Sequence[int] = SIDES) -> list[Job]:
    """Write `number` different simulated films into `folder` and ask something else of each."""
    from fracture.scenario import BONES, PATTERNS, Settings, SettingsError
    from fracture.simulate import simulate
    from fracture.web.models import CLASSES, METHODS

    kinds = [(bone, pattern) for pattern in PATTERNS for bone in BONES]
    made: list[Job] = []
    for seed in count():
        if len(made) == number:
            return made
        bone, pattern = kinds[7 * seed % len(kinds)]  # 7: neighbours differ in both
        try:
            film = simulate(Settings(bone=bone, pattern=pattern, seed=seed)).pixels
        except SettingsError:
            continue  # not every bone breaks in every way
        number_made = len(made)
        picture = Image.fromarray((film * 255).round().astype(np.uint8))
        side = sides[number_made % len(sides)]
        picture = picture.resize((round(picture.width * side / picture.height), side))
        path = folder / f"film {number_made:02d}.png"
        picture.save(path)
        methods = list(METHODS)
        made.append(Job(path, methods[number_made % len(methods)], CLASSES[number_made % 3]))
    raise AssertionError("unreachable")


# --- asking ----------------------------------------------------------------------------------


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """The name and content of each server-sent event."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


async def upload(client: httpx.AsyncClient, film: Path) -> dict[str, Any]:
    """Send a film; returns it as Gradio's file value."""
    files = {"files": (film.name, film.read_bytes(), "image/png")}
    answer = await client.post("gradio_api/upload", files=files)
    answer.raise_for_status()
    value = {"path": answer.json()[0], "orig_name": film.name}
    return {**value, "meta": {"_type": "gradio.FileData"}}


async def joined(client: httpx.AsyncClient, address: str, body: dict[str, Any]) -> str:
    """Take a place in the queue; returns the event's id. Raises QueueFull."""
    answer = await client.post(address, json=body)
    if answer.status_code == 503 and "full" in answer.text:
        raise QueueFull(answer.json()["detail"])
    answer.raise_for_status()
    return answer.json()["event_id"]


async def ask(client: httpx.AsyncClient, job: Job) -> Said:
    """Ask the endpoint, without Gradio's client, which would cost the tested machine more."""
    film = await upload(client, job.film)
    body = {"data": [film, "default", job.method, job.target, True]}
    event = await joined(client, "gradio_api/call/read", body)
    async with client.stream("GET", f"gradio_api/call/read/{event}") as answer:
        async for name, data in events(answer):
            if name == "error":
                raise RuntimeError(f"the app says: {data}")
            if name == "complete":
                break
        else:
            raise RuntimeError("the answer ended early")
    if data[1] is None:
        raise RuntimeError(f"no picture: {data[0]}")
    picture = await client.get("gradio_api/file=" + data[1]["path"])
    picture.raise_for_status()
    return Said(data[0], picture.content)


async def ask_page(client: httpx.AsyncClient, job: Job) -> Said:
    """Ask as the page does after a drop; the picture is the viewer's markup, film and map."""
    session = secrets.token_hex(6)
    config = (await client.get("config")).json()
    drop = next(d for d in config["dependencies"] if [t[1] for t in d["targets"]] == ["upload"])
    film = await upload(client, job.film)
    data = [[film], job.target, "default", job.method, False]
    body = {"data": data, "fn_index": drop["id"], "session_hash": session}
    await joined(client, "gradio_api/queue/join", body)
    place = 0
    address = f"gradio_api/queue/data?session_hash={session}"
    async with client.stream("GET", address) as answer:
        async for _, message in events(answer):
            if message["msg"] == "estimation":
                place = max(place, message["rank"] + 1)
            if message["msg"] == "process_completed":
                break
        else:
            raise RuntimeError("the answer ended early")
    if not message["success"]:
        raise RuntimeError(f"the app says: {message['output']}")
    view, verdict = message["output"]["data"][:2]
    if "fx-film" not in view:
        raise RuntimeError(f"the film is not shown: {verdict}")
    return Said({"verdict": verdict}, view.encode(), place)


DOORS = {"api": ask, "page": ask_page}


def difference(said: Said, alone: Said) -> str:
    """How two answers to one question differ in words; "" if they do not.

    Probabilities may differ by `SAME`. The pictures must be equal to the byte: the same film under
    the same map always makes the same file, and every level of the map changes it.
    """
    one, two = dict(said.reading), dict(alone.reading)
    shares, expected = one.pop("probabilities", {}), two.pop("probabilities", {})
    if one != two:
        return f"said {one}, alone {two}"
    if shares.keys() != expected.keys() or any(
        abs(shares[name] - expected[name]) > SAME for name in shares
    ):
        return f"{one.get('file')}: probabilities {shares}, alone {expected}"
    if said.picture != alone.picture:
        return f"{one.get('file')}: another picture than alone"
    return ""


def connect(url: str) -> httpx.AsyncClient:
    """A client with connections of its own, as every visitor has."""
    return httpx.AsyncClient(base_url=url, timeout=300, trust_env=False)


async def alone(url: str, questions: Sequence[Job], door: str = "api") -> list[Said]:
    """The answers to `questions`, asked one after the other."""
    async with connect(url) as client:
        return [await DOORS[door](client, job) for job in questions]


async def together(
    url: str,
    questions: Sequence[Job],
    expected: Sequence[Said],
    clients: int,
    requests: int,
    server: int | None = None,
    door: str = "api",
) -> Watch:
    """Share out the questions among clients, who ask all at once until `requests` were asked.

    No question belongs to two clients, and however many clients there are, all are asked.
    `server` is the process whose memory is watched.
    """
    watch, tickets, began = Watch(), count(), time.perf_counter()

    async def visit(own: Sequence[tuple[Job, Said]]) -> None:
        async with connect(url) as client:
            for job, right in cycle(own):
                if next(tickets) >= requests:
                    return
                start = time.perf_counter()
                try:
                    said = await DOORS[door](client, job)
                except QueueFull:
                    watch.full += 1
                    await asyncio.sleep(0.2)
                except (httpx.HTTPError, RuntimeError) as error:
                    watch.failed.append(f"{job.film.name}: {type(error).__name__} {error}")
                else:
                    watch.seconds.append(time.perf_counter() - start)
                    watch.place = max(watch.place, said.place)
                    if wrong := difference(said, right):
                        watch.wrong.append(wrong)

    async def look_at_memory() -> None:
        while server is not None:
            done = len(watch.seconds)
            watch.memory.append((time.perf_counter() - began, done, resident(server)))
            await asyncio.sleep(1.0)

    memory = asyncio.create_task(look_at_memory())
    shares = [list(zip(questions, expected, strict=True))[n::clients] for n in range(clients)]
    await asyncio.gather(*map(visit, shares))
    memory.cancel()
    with suppress(asyncio.CancelledError):
        await memory
    return watch


# --- the server ------------------------------------------------------------------------------


def resident(process: int) -> float:
    """Memory of a process in MB (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(process)


def cpu_seconds(process: int) -> float:
    """Processor time that a process has used (Linux): the same however busy the machine is."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(
    folder: Path, threads: int, readers: int | None, sessions: int | None
) -> Iterator[tuple[str, int]]:
    """The app with its own checkpoint; yields its address and process. None: the app's own choice.

    threads: of torch, in each reading. readers: readings at a time. sessions: see `main`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(port)]
    for name, value in (("readers", readers), ("sessions", sessions)):
        if value is not None:
            command += [f"--{name}", str(value)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads")}
    environment["OMP_NUM_THREADS"] = str(threads)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(1200):
            with suppress(httpx.TransportError):
                if httpx.get(url + "health", trust_env=False).json()["model"] == "ready":
                    break
            if process.poll() is not None:
                raise RuntimeError((folder / "log.txt").read_text())
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


def serve(port: int, readers: int | None, sessions: int | None) -> None:
    """Run the app here, with another number of readers or of remembered sessions if asked."""
    import app

    for function in app.demo.fns.values():
        if readers and function.concurrency_id == "read":
            function.concurrency_limit = readers
    options = {"state_session_capacity": sessions} if sessions else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.demo.launch(server_port=port, quiet=True, **options)


# --- report ----------------------------------------------------------------------------------


def report(clients: int, watch: Watch, seconds: float) -> dict[str, Any]:
    """What one run showed, as plain JSON values."""
    found: dict[str, Any] = {
        "clients": clients,
        "answered": len(watch.seconds),
        "wrong": watch.wrong[:20],
        "failed": watch.failed[:20],
        "queue_full": watch.full,
        "highest_place_in_queue": watch.place,
        "requests_per_second": round(len(watch.seconds) / seconds, 2),
    }
    if watch.seconds:
        shares = np.percentile(watch.seconds, [50, 95, 99]).tolist()
        found |= dict(zip(PACE[1:], np.round(shares, 3).tolist(), strict=True))
    if len(watch.memory) > 1:
        warm, last = held(watch, WARM_UP), held(watch, 0.9)
        found["memory_mb"] = {
            "first": round(watch.memory[0][2], 1),
            "warm": round(warm, 1),
            "last": round(last, 1),
            "most": round(max(mb for _, _, mb in watch.memory), 1),
            "growth_after_warm_up": round(last / warm - 1, 4),
        }
        step = max(1, len(watch.memory) // 60)
        found["memory_over_time"] = [
            [round(s), done, round(mb, 1)] for s, done, mb in watch.memory[::step]
        ]
    return found


def held(watch: Watch, share: float) -> float:
    """Median memory in MB over the tenth of a run's requests that begins at `share` of them.

    A single look says little: a reading of a large film takes 100 MB for as long as it lasts.
    """
    requests = watch.memory[-1][1]
    later = [(done, mb) for _, done, mb in watch.memory if done >= share * requests]
    # in a short run nobody may have looked during that tenth: then the first look after it
    end = max((share + 0.1) * requests, later[0][0])
    return float(np.median([mb for done, mb in later if done <= end]))


def in_words(machine: dict[str, Any]) -> str:
    """One line on where figures come from; machine: see `fracture.bench.__main__.machine`."""
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "gradio"))
    memory = f", {machine['memory_gb']:.0f} GB" if "memory_gb" in machine else ""
    processor = f"{machine['processor']}, {machine['cores']} cores{memory}"
    return f"{processor}; Python {machine['python']}, {versions}."


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Runs in Markdown: where they were made, then a line for each number of clients."""
    lines = [
        *dict.fromkeys(in_words(run["machine"]) for run in runs),
        "",
        "| Asked | torch threads | readings at a time | clients | answers | a second | p50, s "
        "| p95, s | p99, s | CPU s an answer | wrong or failed "
        "| memory: at start, warm, at the end | growth |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for found in run["runs"]:
            held, spent = "", ""
            if memory := found.get("memory_mb"):
                stages = (run["memory_mb_at_start"], memory["warm"], memory["last"])
                held = ", ".join(f"{stage:.0f}" for stage in stages) + " MB"
                spent = f"{memory['growth_after_warm_up']:+.1%}"
            cells = [
                run["settings"]["door"],
                run["settings"]["threads"],
                run["settings"]["readers"],
                found["clients"],
                found["answered"],
                *(found.get(name, "") for name in (*PACE, "cpu_s_per_answer")),
                len(found["wrong"]) + len(found["failed"]),
                held,
                spent,
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def measured(options: argparse.Namespace, threads: int, readers: int | None) -> dict[str, Any]:
    """Start an app, put its figures at each number of clients into plain JSON values."""
    from fracture.bench.__main__ import machine

    figures: dict[str, Any] = {
        "machine": machine(),
        "settings": {
            "door": options.door,
            "threads": threads,
            "readers": readers or os.cpu_count(),
        },
        "film_heights": list(options.sides),
        "runs": [],
    }
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), threads, readers, options.sessions) as (url, process),
    ):
        figures["memory_mb_at_start"] = round(resident(process), 1)
        questions = jobs(Path(name), max(options.questions, *options.clients), options.sides)
        expected = asyncio.run(alone(url, questions, options.door))
        for clients in options.clients:
            start, used = time.perf_counter(), cpu_seconds(process)
            asked = (questions, expected, clients, options.requests)
            watch = asyncio.run(together(url, *asked, process, options.door))
            found = report(clients, watch, time.perf_counter() - start)
            used = cpu_seconds(process) - used
            found["cpu_s_per_answer"] = round(used / max(1, len(watch.seconds)), 3)
            figures["runs"].append(found)
            line = {k: v for k, v in found.items() if k != "memory_over_time"}
            print(f"{threads}x{figures['settings']['readers']}", json.dumps(line), flush=True)
    return figures


def pair(text: str) -> tuple[int, int]:
    """`2x3` as (2, 3)."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not THREADSxREADERS, such as 1x2")
    threads, readers = map(int, text.split("x"))
    return threads, readers


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 1 if any answer was wrong or missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--requests", type=int, default=200, help="in all, for each client count")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="different ones, at least")
    parser.add_argument("--door", choices=DOORS, default="api")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="films' heights")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each reading")
    parser.add_argument("--readers", type=int, help="readings at a time (the app's own choice)")
    parser.add_argument(
        "--sweep", type=pair, nargs="+", metavar="THREADSxREADERS", help="several such settings"
    )
    parser.add_argument("--sessions", type=int, help="whose state Gradio remembers (the app's own)")
    parser.add_argument("--out", type=Path, help="add the figures to this JSON file of runs")
    parser.add_argument("--table", type=Path, nargs=2, metavar=("RUNS", "PAGE"), help="only write")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.serve:
        serve(options.serve, options.readers, options.sessions)
        return 0
    if options.table:
        from fracture.card import with_block

        runs, page = options.table
        page.write_text(with_block(page.read_text(), table(json.loads(runs.read_text()))))
        return 0

    bad = 0
    for threads, readers in options.sweep or [(options.threads, options.readers)]:
        figures = measured(options, threads, readers)
        bad += sum(len(found["wrong"]) + len(found["failed"]) for found in figures["runs"])
        if options.out:
            runs = json.loads(options.out.read_text()) if options.out.exists() else []
            options.out.write_text(json.dumps([*runs, figures], indent=1) + "\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
