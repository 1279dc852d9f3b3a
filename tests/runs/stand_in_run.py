"""Stands in for the trainer on the workers of a fake cloud, where only the launcher is tested.

It counts steps in a file until there is a file `finish`, or to --train.steps, and like the trainer it saves
on SIGTERM and then exits with 143. With --fail_at or --fail_every it fails at a step, or after so many steps
of a life; with --kill_at or --kill_every it gets SIGKILL there. While there is a file `outage` it fails as
where a bucket cannot be reached.
"""

from __future__ import annotations

from pathlib import Path

ENDLESS = "1000000"
STAND_IN = """
import json, os, pathlib, signal, sys, time

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--exit" in arguments:
    print("RuntimeError: out of memory")
    sys.exit(int(arguments["--exit"]))
folder = pathlib.Path(arguments["--output_dir"])
folder.mkdir(parents=True, exist_ok=True)
worker = os.environ.get("JAX_PROCESS_ID", "0")
(folder / f"arguments{worker}.json").write_text(json.dumps(sys.argv[1:]))
peers = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
(folder / f"peers{worker}.json").write_text(json.dumps(peers))
checkpoint = folder / f"checkpoint{worker}"
done = int(checkpoint.read_text()) if checkpoint.exists() else 0
begun = done
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
time.sleep(float(arguments.get("--start_seconds", "0")))
print(f"resuming after step {done}")
while done < int(arguments["--train.steps"]) and not (folder / "finish").exists():
    if (folder / "outage").exists():
        print("error: gs://x: out of reach at present (503); repeat the same command")
        sys.exit(1)
    if str(done) == arguments.get("--fail_at") or str(done - begun) == arguments.get("--fail_every"):
        print("RuntimeError: out of memory")
        sys.exit(1)
    if str(done) == arguments.get("--kill_at") or str(done - begun) == arguments.get("--kill_every"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    done += 1
    stopping = bool(stop)
    if stopping:
        time.sleep(float(arguments.get("--saving_seconds", "0.3")))
    (folder / f"new{worker}").write_text(str(done))
    (folder / f"new{worker}").rename(checkpoint)
    print(f"step {done}/{arguments['--train.steps']}")
    if stopping:
        sys.exit(143)
"""


class Steps:
    """What the stand-ins of one run note in their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arguments(self, steps: str = ENDLESS, *more: str) -> list[str]:
        """Those of `tpu_pod.sh run` and `train`."""
        return ["--", "--output_dir", str(self.folder), "--train.steps", steps, *more]

    def done(self) -> list[int]:
        """The last step that each of the two workers saved."""
        files = [self.folder / f"checkpoint{worker}" for worker in (0, 1)]
        return [int(file.read_text()) if file.exists() else 0 for file in files]

    def are_beyond(self, step: int = 0) -> bool:
        return min(self.done()) > step

    def finish(self) -> None:
        """Lets the stand-ins come to their end."""
        (self.folder / "finish").touch()
