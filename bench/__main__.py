"""`python -m bench [throughput latency memory replay waking webhook isolation]`: all of them without a name."""

from __future__ import annotations

import sys

from bench import isolation, latency, memory, replay, throughput, waking, webhook

BENCHES = {
    "throughput": throughput.run,
    "latency": latency.run,
    "memory": memory.run,
    "replay": replay.run,
    "waking": waking.run,
    "webhook": webhook.run,
    "isolation": isolation.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        print(f"\n== {name} ==", flush=True)
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
