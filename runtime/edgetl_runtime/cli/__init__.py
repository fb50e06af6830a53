"""edgetl-run: the command line of the device. Results on stdout, everything else on stderr.

Exit codes: 0 done and passed, 1 the self-test failed, 2 the user can fix it; `edgetl_runtime.commands` has the others.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence

from edgetl_runtime import console
from edgetl_runtime.cli import information, measuring, prediction
from edgetl_runtime.cli.options import task_options
from edgetl_runtime.commands import EXIT_CODES, CommandParser, run_command
from edgetl_runtime.engines import DEVICES, ENGINES

__all__ = ["main"]

_ENGINE_CHOICES = ("auto", *dict.fromkeys(name for info in ENGINES.values() for name in (info.name, info.target)))
_PROGRAM = "edgetl-run"
_ABOUT = {
    "info": "Show the manifest and, for each variant, whether it runs here and passed verification.",
    "predict": "Say what images are, with the fastest variant that runs here and is accurate enough, or the one that "
    "is named.",
    "embed": "Give the features of images: with --json their values, else their sizes and lengths.",
    "bench": "Measure every variant that runs here - load, first run, preprocessing, steady state - and say which to "
    "ship.",
    "self-test": "Run the golden samples through every variant that runs here; exit code 1 when the device computes "
    "otherwise.",
}
_MEANT = {
    **dict.fromkeys(("-o", "--output", "--out"), ("--json", "--json FILE writes the result")),
    **dict.fromkeys(("-k", "--topk", "--top-k"), ("--top", "--top K: labels per image")),
    **dict.fromkeys(("--conf", "--confidence"), ("--threshold", "--threshold P leaves out labels less probable")),
    **dict.fromkeys(("--backend", "--provider", "--runtime"), ("--engine", "--engine NAME")),
    **dict.fromkeys(("--gpu", "--cuda", "--npu"), ("--device", "--device NAME")),
    **dict.fromkeys(("-t", "--num-threads"), ("--threads", "--threads N")),
    **dict.fromkeys(("--model", "-m"), ("", "the bundle or the model file is the first argument, without an option")),
    **dict.fromkeys(("-q", "--quiet"), ("", "notes go to stderr: 2>/dev/null hides them")),
    **dict.fromkeys(("classify", "run", "infer"), ("predict", "edgetl-run predict BUNDLE IMAGE")),
    **dict.fromkeys(("inspect", "show"), ("info", "edgetl-run info BUNDLE")),
    **dict.fromkeys(("benchmark", "time"), ("bench", "edgetl-run bench BUNDLE")),
    **dict.fromkeys(("verify", "test", "selftest", "check"), ("self-test", "edgetl-run self-test BUNDLE")),
}
"""What people of other tools type: see `CommandParser`."""


def main(argv: Sequence[str] | None = None, *, program: str = _PROGRAM) -> int:
    """Run one command and return its exit code. `argv` without the program's name, by default the process's own.

    `program` is how messages are signed.
    """
    return run_command(program, lambda: _run(argv, program))


def _run(argv: Sequence[str] | None, program: str) -> int:
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    if arguments.json is not None:
        console.check_json_destination(arguments.json)

    def show_warning(message: Warning | str, *_: object, **__: object) -> None:
        """Without file and line: they are of no use to who runs a command."""
        console.note(f"{program}: warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        return command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=_PROGRAM,
        description="Run the variants of an edgetl bundle on a device.\nedgetl-run help COMMAND shows its options.",
        epilog=EXIT_CODES.format(failed="the self-test failed"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        meant=_MEANT,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and leave")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help: str) -> argparse.ArgumentParser:  # noqa: A002 - as argparse calls it
        return commands.add_parser(name, help=help, description=_ABOUT[name], meant=_MEANT)

    info = add("info", help="what is in a bundle and what of it runs here")
    predict = add(
        "predict", help="say what images are: labels with probabilities, or what the task of the bundle gives"
    )
    embed = add("embed", help="features of images, from a bundle that was exported with some")
    bench = add("bench", help="measure latency of every variant that runs here")
    test = add("self-test", help="check that this device computes what was verified")
    for sub, command in (
        (info, information.info),
        (predict, prediction.predict),
        (embed, prediction.embed),
        (bench, measuring.bench),
        (test, measuring.self_test_command),
    ):
        sub.set_defaults(command=command)
        sub.add_argument("bundle", metavar="BUNDLE", help="bundle folder, .edgetl file, or one model file")
        sub.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    for sub in (predict, embed, bench, test):
        sub.add_argument("--threads", type=int, metavar="N", help="cores of one run (default: all)")
        sub.add_argument("--strict", action="store_true", help="fail when an operator falls back to another device")
    for sub in (info, predict, embed, bench, test):
        sub.add_argument("--device", default="cpu", help=f"{', '.join(DEVICES)} or an engine's own (default: cpu)")
        sub.add_argument("--device-option", metavar="KEY=VALUE", action="append", default=[], help="for that device")
    info.add_argument("--placement", action="store_true", help="load what runs here and say where its operators run")
    for sub in (predict, embed, bench):
        sub.add_argument("--engine", choices=_ENGINE_CHOICES, default="auto", help="only variants of this engine")
    for sub in (bench, test):
        sub.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    for sub in (predict, embed):
        sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
        sub.add_argument("--variant", metavar="ID", help="this variant (default: the fastest that runs here and fits)")
    embed.add_argument("--layer", metavar="NAME", help="which feature (default: the first of the bundle)")
    embed.add_argument("--normalize", choices=("l2",), help="bring every vector to length 1")
    predict.add_argument("--min-top1", type=float, metavar="SHARE", help="least recorded accuracy, 0.8 is 80 %%")
    predict.add_argument("--max-drop", type=float, metavar="SHARE", help="most that it may lie below the original's")
    predict.add_argument("--explain", action="store_true", help="say what the variant was chosen from")
    predict.add_argument("--draw", metavar="FILE|DIR", help="write the image with the result drawn into it")
    for name, option in task_options().items():
        predict.add_argument(f"--{name.replace('_', '-')}", type=option.type, metavar=option.metavar, help=option.help)
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time per variant (default: 2)")
    bench.add_argument("--image", metavar="FILE", help="image to measure with (default: a golden sample)")
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up when it is asked for: that takes longer than many a command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("edgetl")
        except PackageNotFoundError:
            found = "(not installed)"
        print(f"edgetl-run {found}")
        parser.exit()
