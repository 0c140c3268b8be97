"""The command `leadline` with seams for faults: `python -m tests.verify.run_with_faults run …`.

Each process of Leadline that is started so, its projector included, has `inside.install` done first: a spawned
child imports the main module of its parent again.
"""

from __future__ import annotations

from tests.verify import inside

inside.install()


def main() -> None:
    from cli.app import main as command_line  # noqa: PLC0415  # after the seams are in

    command_line()


if __name__ == "__main__":
    main()
