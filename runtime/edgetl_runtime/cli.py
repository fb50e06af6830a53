"""edgetl-run: the command line of the device. Results on stdout, everything else on stderr.

Exit codes: 0 done and passed, 1 the self-test failed, 2 the user can fix it; `edgetl_runtime.commands` has the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgetl_runtime import console
from edgetl_runtime.advice import Advice, Recommendation, advise
from edgetl_runtime.batch_sizes import batch_text
from edgetl_runtime.bench import BenchOptions, VariantLatency, bench_image, bench_variants
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.commands import EXIT_CODES, CommandParser, run_command, split_names
from edgetl_runtime.drawing import check_drawings, save_drawing
from edgetl_runtime.engines import DEVICES, ENGINES, engine_info, import_for
from edgetl_runtime.errors import EngineError, ImageError, MissingDependency, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.loading import load
from edgetl_runtime.machine import cpu_features, describe_machine
from edgetl_runtime.manifest import Manifest, Preprocess, Variant
from edgetl_runtime.placement import FallbackWarning, Placement
from edgetl_runtime.preflight import Obstacle, obstacle
from edgetl_runtime.preprocess import load_image
from edgetl_runtime.selftest import SelfTest, self_test
from edgetl_runtime.session import Session
from edgetl_runtime.tasks import TASKS, PredictOption, predict_options, task_of
from edgetl_runtime.trial import refusing, try_variants
from edgetl_runtime.verification import Verified, read_verified

__all__ = ["main"]

_ENGINE_CHOICES = ("auto", *dict.fromkeys(name for info in ENGINES.values() for name in (info.name, info.target)))
_UNREADABLE = 2
_MOST_LABELS = 20
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

_Answer = TypeVar("_Answer")


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
    for sub, command in ((info, _info), (predict, _predict), (embed, _embed), (bench, _bench), (test, _self_test)):
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
    for name, option in _task_options().items():
        predict.add_argument(f"--{name.replace('_', '-')}", type=option.type, metavar=option.metavar, help=option.help)
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time per variant (default: 2)")
    bench.add_argument("--image", metavar="FILE", help="image to measure with (default: a golden sample)")
    return parser


def _task_options() -> dict[str, PredictOption]:
    """What `predict` can be asked in any task, by name."""
    return {option.name: option for task in TASKS for option in task_of(task).options}


def _info(arguments: argparse.Namespace) -> int:
    """Show the manifest and, for each variant, whether it runs here and passed verification."""
    bundle = open_bundle(arguments.bundle)
    manifest, failed = bundle.manifest, bundle.failed_checks()
    verified = read_verified(bundle)
    rows: list[list[str]] = []
    lacking: dict[str, str | None] = {}
    variants: list[dict[str, Any]] = []
    obstacles = {variant.id: _absent_or_unable(bundle, variant) for variant in manifest.variants}
    able = [id_ for id_, found in obstacles.items() if found is None]
    died = try_variants(dict.fromkeys(able, bundle.path), **_on_device(arguments)).died if arguments.placement else {}
    for variant in manifest.variants:
        found = obstacles[variant.id]
        runs = "runs here" if found is None else " ".join(str(found.error).split())
        if found is not None and isinstance(found.error, MissingDependency):
            lacking[variant.requires.engine] = found.error.fix
            runs = f"needs {variant.requires.engine}"
        places = None
        if arguments.placement and found is None:
            start = refusing(variant.id, died[variant.id]) if variant.id in died else bundle.session
            places, runs = _placed(partial(start, variant.id, **_on_device(arguments)))
        checks = failed.get(variant.id, ())
        wrong, costs = [check for check in checks if not check.is_cost], [check for check in checks if check.is_cost]
        verdict = f"; FAILED verification: {'; '.join(map(str, wrong))}" if wrong else ""
        note = f"; missed where verified: {'; '.join(map(str, costs))}" if costs else ""
        cells = [variant.id, console.size(variant.bytes), variant.requires.engine]
        rows.append([*cells, *_shares(verified.get(variant.id)), f"{runs}{verdict}{note}"])
        runnable = {"runnable": found is None, "problem": None if found is None else str(found.error)}
        about: dict[str, Any] = {"id": variant.id, "engine": variant.requires.engine, "bytes": variant.bytes}
        about |= runnable
        about["int8_safe"] = _int8_safe(variant)
        about["verified"] = None if variant.id not in verified else dataclasses.asdict(verified[variant.id])
        missed = {"failed": wrong, "missed_costs": costs}
        variants.append({**about, **{kind: [dataclasses.asdict(check) for check in of] for kind, of in missed.items()}})
        if arguments.placement:
            variants[-1]["placement"] = None if places is None else dataclasses.asdict(places)
    spec = manifest.preprocess
    some = next(iter(verified.values()), None)
    quality = some.quality if some is not None else "top-1" if manifest.task == "classification" else "quality"
    lines = [
        f"{manifest.name}: {manifest.task}, {len(manifest.labels)} labels, schema {manifest.schema}",
        *_wrapped("labels     ", _some([label.name for label in manifest.labels])),
        f"input      {manifest.input.name} {manifest.input.dtype} {list(manifest.input.shape)}",
        f"batch      {_batch_text(manifest)}",
        *(f"output     {spec.name} {spec.dtype} {list(spec.shape)}" for spec in manifest.outputs),
        *(f"feature    {spec.name} {spec.dtype} {list(spec.shape)}" for spec in manifest.features),
        *_wrapped("preprocess ", f"{_preprocessing(spec)}; decode {spec.decode}"),
        f"golden     {manifest.golden.n if manifest.golden else 'no'} samples",
        f"verified   {_verified_in_words(some)}",
        "",
        *console.table(["variant", "size", "engine", quality, "agree", "state"], rows),
        *(f"{engine} is not installed here: {fix}" for engine, fix in lacking.items()),
        *_left_out(manifest),
        *_saturating(manifest.variants),
        *_safe(manifest.variants),
    ]
    contract = {key: value for key, value in json.loads(manifest.to_json()).items() if key != "variants"}
    console.show(lines, {"bundle": str(bundle.path), **contract, "variants": variants}, arguments.json)
    return 0


def _absent_or_unable(bundle: Bundle, variant: Variant) -> Obstacle | None:
    absent = bundle.absent(variant.id)
    return obstacle(variant) if absent is None else Obstacle(variant.id, absent)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LABELS
    return ", ".join(names[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")


def _wrapped(head: str, text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(printable(text), 79, initial_indent=head, subsequent_indent=" " * (len(head) or 2))


def _verified_in_words(found: Verified | None) -> str:
    if found is None:
        return "nothing is recorded: edgetl verify BUNDLE --data DIR --record"
    original = "" if found.original is None else f"; the original's {found.quality} is {found.original:.1%}"
    return f"{(found.created or 'undated')[:10]} on {found.n or '?'} photos{original}"


def _shares(found: Verified | None) -> list[str]:
    shares = (None, None) if found is None else (found.top1, found.top1_agreement)
    return ["-" if share is None else f"{share:.1%}" for share in shares]


def _preprocessing(spec: Preprocess) -> str:
    """In words; what is not square says which side is which."""
    (height, width), (rows, columns) = spec.crop, spec.covered
    which = "" if height == width and rows == columns else " (height x width)"
    if spec.mode == "stretch":
        return f"stretched to {height}x{width}{which}, {spec.interpolation}"
    if spec.mode == "letterbox":
        return f"the whole image in {height}x{width}{which}, black borders, {spec.interpolation}"
    resize = f"shorter side to {rows}" if isinstance(spec.resize, int) else f"as small as covers {rows}x{columns}"
    return f"{resize}, {spec.interpolation}; centre crop {height}x{width}{which}"


def _batch_text(manifest: Manifest) -> str:
    """How many images a run takes; the variants that take others are named."""
    own = {variant.id: manifest.batch_of(variant) for variant in manifest.variants}
    others = {id_: batch for id_, batch in own.items() if batch != manifest.input.shape[0]}
    return "; ".join([batch_text(manifest.input.shape[0]), *(f"{id_}: {batch_text(n)}" for id_, n in others.items())])


def _placed(start: Callable[[], Session]) -> tuple[Placement | None, str]:
    """Where the operators of a session run, and that in words; None and why when it cannot be started."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)  # the words say it
            with start() as session:
                placement = session.placement()
    except EngineError as error:
        return None, " ".join(str(error).split())
    places = ", ".join(f"{n} on {device}" for device, n in placement.counts.items())
    fallen = len(placement.fallen_back)
    return placement, f"{places}; {fallen} fallen back" if fallen else places


def _on_device(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `load` for ``--device`` and its options."""
    options = {}
    for text in arguments.device_option:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--device-option {text!r} is not KEY=VALUE", fix="--device-option device_type=GPU")
        options[key] = value
    return {"device": arguments.device, "device_options": options}


def _left_out(manifest: Manifest) -> list[str]:
    """What ``edgetl pack`` left out."""
    if manifest.packed is None:
        return []
    left_out = (*manifest.packed.variants, *manifest.packed.files) or ("nothing",)
    return _wrapped("", f"left out when it was packed: {', '.join(left_out)}")


def _int8_safe(variant: Variant) -> bool | None:
    """Whether it was exported with --int8-safe; None where the manifest does not say."""
    chosen = (variant.quantization or {}).get("int8_safe")
    return chosen if isinstance(chosen, bool) else None


def _safe(variants: Sequence[Variant]) -> list[str]:
    """A line that names the variants of --int8-safe: other weights than without it."""
    names = [variant.id for variant in variants if _int8_safe(variant)]
    return [f"exported with --int8-safe, for x86 CPUs without VNNI: {', '.join(names)}"] if names else []


def _saturating(variants: Sequence[Variant]) -> list[str]:
    """A line for every variant whose sums may outgrow 16 bits on some processors."""
    lines = []
    for variant in variants:
        found = (variant.quantization or {}).get("saturation")
        if isinstance(found, dict) and found.get("layers_at_risk"):
            lines.append(
                f"{variant.id}: {found['layers_at_risk']} of {found.get('layers', '?')} layers can saturate on x86 "
                "CPUs without VNNI: export with --int8-safe"
            )
    return lines


def _predict(arguments: argparse.Namespace) -> int:
    """Say what images are, with the fastest variant that runs here and is accurate enough, or the one that is named."""
    bundle = open_bundle(arguments.bundle)
    options = predict_options(bundle.manifest.task, {name: getattr(arguments, name) for name in _task_options()})
    drawings = {} if arguments.draw is None else check_drawings(arguments.draw, arguments.images)
    with load(
        bundle,
        variant=arguments.variant,
        engine=arguments.engine,
        threads=arguments.threads,
        strict=arguments.strict,
        min_top1=arguments.min_top1,
        max_drop=arguments.max_drop,
        **_on_device(arguments),
    ) as predictor:
        session, chosen = predictor.session, predictor.variant.id
        console.note(f"{chosen} in {session.engine} {session.engine_version}")
        if chosen in bundle.failed_variants():
            console.note(f"warning: {chosen} failed verification; it runs because it was named")
        if arguments.explain:
            console.note(str(predictor.choice or f"{chosen}: it was named"))
        predict = partial(predictor.predict, **options)
        found, failed = _of_each(arguments.images, predict)
    for image in found.keys() & drawings.keys():
        _draw(found[image], image, drawings[image])
    results = [
        {"image": image, **(failed[image] if image in failed else found[image].fields())} for image in arguments.images
    ]
    lines = [line for image in arguments.images if image in found for line in f"{image}: {found[image]}".split("\n")]
    document: dict[str, Any] = {"bundle": str(bundle.path), "variant": chosen, "engine": session.engine}
    document |= {"engine_version": session.engine_version, "predictions": results}
    if lines or arguments.json:
        console.show(lines, document, arguments.json)
    return _UNREADABLE if failed else 0


def _draw(result: Any, image: str, destination: str) -> None:
    """Write `image` with its result drawn into it. Raises `UsageError` for a result that is no drawing."""
    if not hasattr(result, "drawn"):
        raise UsageError(
            "--draw says nothing of this bundle: its results have no place in an image", fix="leave it out"
        )
    save_drawing(result.drawn(load_image(Path(image))), destination)
    console.note(f"drawn: {destination}")


def _of_each(
    images: Sequence[str], answer: Callable[[Path], _Answer]
) -> tuple[dict[str, _Answer], dict[str, dict[str, str | None]]]:
    """What `answer` says of every image, and, as JSON has it, why others cannot be read: those are named on stderr."""
    found: dict[str, _Answer] = {}
    failed: dict[str, dict[str, str | None]] = {}
    for image in dict.fromkeys(images):
        try:
            found[image] = answer(Path(image))
        except ImageError as error:
            console.note(f"edgetl-run: error: {error}")
            failed[image] = {"error": error.what, "fix": error.fix}
    if failed and found:
        console.note(f"{len(failed)} of {len(found) + len(failed)} images could not be read")
    return found, failed


def _embed(arguments: argparse.Namespace) -> int:
    """Give the features of images: with --json their values, else their sizes and lengths."""
    bundle = open_bundle(arguments.bundle)
    with load(
        bundle,
        variant=arguments.variant,
        engine=arguments.engine,
        threads=arguments.threads,
        strict=arguments.strict,
        **_on_device(arguments),
    ) as classifier:
        session, chosen = classifier.session, classifier.variant.id
        console.note(f"{chosen} in {session.engine} {session.engine_version}")
        embed = partial(classifier.embed, layer=arguments.layer, normalize=arguments.normalize or False)
        found, failed = _of_each(arguments.images, embed)
    layer = arguments.layer or bundle.manifest.features[0].name
    lines = [
        f"{image}: {layer} {list(value.shape)}, length {float((value.astype(float) ** 2).sum()) ** 0.5:.4g}"
        for image, value in ((image, found[image]) for image in arguments.images if image in found)
    ]
    document = {
        "bundle": str(bundle.path),
        "variant": chosen,
        "engine": session.engine,
        "engine_version": session.engine_version,
        "layer": layer,
        "embeddings": [
            {"image": image, **(failed[image] if image in failed else {"values": found[image].tolist()})}
            for image in arguments.images
        ],
    }
    if lines or arguments.json:
        console.show(lines, document, arguments.json)
    return _UNREADABLE if failed else 0


def _bench(arguments: argparse.Namespace) -> int:
    """Measure every variant that runs here - load, first run, preprocessing, steady state - and say which to ship."""
    bundle = open_bundle(arguments.bundle)
    able, unable = _split(_wanted(bundle, arguments.variants, arguments.engine))
    verified = read_verified(bundle)
    if arguments.image is None:
        image, what = bench_image(bundle)
    else:
        image, what = console.read_image(arguments.image), arguments.image
    device = _on_device(arguments)
    options = BenchOptions(arguments.threads, arguments.seconds, strict=arguments.strict, **device)
    results = bench_variants(bundle, [variant.id for variant in able], image, options, note=console.note)
    features = cpu_features()
    advice = advise(results, verified, features)
    rows = []
    for result in results:
        times = (result.load_ms, result.first_ms, result.preprocess_ms, result.run.p50_ms, result.run.p95_ms)
        rows.append([result.id, *(f"{time:.2f}" for time in times), console.size(result.bytes)])
    lines = [
        f"milliseconds, {_batches(results)}, {arguments.threads or 'all'} threads, device {arguments.device}; "
        f"image: {what}",
        *console.table(["variant", "load", "first", "preprocess", "p50", "p95", "size"], rows),
        *_not_run(unable),
        "",
        *_advice_lines(advice),
    ]
    document = {
        "bundle": str(bundle.path),
        "machine": describe_machine(),
        "cpu_features": dataclasses.asdict(features),
        "image": what,
        "variants": [_report_entry(dataclasses.asdict(result)) for result in results],
        "not_run": [{"id": found.variant, "problem": str(found.error)} for found in unable],
        "advice": dataclasses.asdict(advice),
    }
    console.show(lines, document, arguments.json)
    return 0


def _batches(results: Sequence[VariantLatency]) -> str:
    """How many images are in the runs that were timed: one, and what fills a fixed batch up."""
    sizes = sorted({max(1, result.batch) for result in results})
    filled_up = "" if sizes == [1] else " (one image, filled up)"
    return f"batch {', '.join(map(str, sizes))}{filled_up}"


def _advice_lines(advice: Advice) -> list[str]:
    """The advice for people: the reasons that already stand at the top are not said again at its engine."""
    overall = advice.recommendation
    lines = [f"to ship on this device: {_pick(overall)}", *(f"  {reason}" for reason in overall.reasons)]
    for engine in advice.engines:
        said = engine.recommendation.variant == overall.variant
        reasons = () if said else engine.recommendation.reasons
        if len(advice.engines) > 1:
            lines.append(f"in {engine.engine}: {_pick(engine.recommendation)}")
        lines += [f"  {line}" for line in (*reasons, *engine.passed_over)]
    return [*lines, *(f"note: {note}" for note in advice.notes)]


def _pick(recommendation: Recommendation) -> str:
    if recommendation.variant is None:
        return "none"
    return recommendation.variant if recommendation.verified else f"{recommendation.variant}, once it is verified"


def _self_test(arguments: argparse.Namespace) -> int:
    """Run the golden samples through every variant that runs here; exit code 1 when the device computes otherwise."""
    bundle = open_bundle(arguments.bundle)
    able, unable = _split(_wanted(bundle, arguments.variants, "auto"))
    bundle.check()
    ids = tuple(variant.id for variant in able)
    result = self_test(
        bundle, variant_ids=ids, threads=arguments.threads, strict=arguments.strict, **_on_device(arguments)
    )
    document = {"bundle": str(bundle.path), "machine": describe_machine(), "passed": result.passed}
    not_run = [{"id": found.variant, "problem": str(found.error)} for found in unable]
    tests = {**dataclasses.asdict(result), "not_run": not_run}
    console.show(_self_test_lines(result, unable), {**document, **tests}, arguments.json)
    return 0 if result.passed else 1


def _self_test_lines(result: SelfTest, unable: list[Obstacle]) -> list[str]:
    rows = []
    for test in result.variants:
        numbers = ["-"] * 3
        if test.agreement is not None:
            numbers[0] = f"{round(test.agreement * test.n)}/{test.n}"
        if test.sqnr_db is not None and test.max_abs is not None:
            numbers[1:] = [f"{test.sqnr_db:.1f}", f"{test.max_abs:.3g}"]
        state = "ok" if test.passed else f"FAILED: {test.problem}"
        known = "" if test.counted else " (failed verification when it was exported: not counted)"
        rows.append([test.id, f"{test.engine} {test.engine_version}", *numbers, state + known])
    if result.golden:
        pixels = [f"preprocessing of {result.golden} golden samples: largest difference {result.pixels} grey levels"]
        pixels += [f"  {name}: {levels} grey levels" for name, levels in result.other_pixels]
    else:
        pixels = ["no golden samples here: only checked that the model runs and its output is finite"]
    return [
        *pixels,
        *console.table(["variant", "engine", "same", "SQNR dB", "max abs", "result"], rows),
        *(f"{test.id}: {other}" for test in result.variants for other in test.others),
        *_features(result),
        *_not_run(unable),
        "self-test passed" if result.passed else "self-test FAILED",
    ]


def _features(result: SelfTest) -> list[str]:
    """A line for every feature: its SQNR by variant."""
    found: dict[str, list[str]] = {}
    for test in result.variants:
        for feature in test.features:
            found.setdefault(feature.name, []).append(f"{test.id} {feature.sqnr_db:.1f}")
    return [f"{name} (SQNR dB): {', '.join(numbers)}" for name, numbers in found.items()]


def _wanted(bundle: Bundle, ids: str | None, engine: str) -> list[Variant]:
    """The variants that the options name; `EngineError` when they name none."""
    engine = engine if engine == "auto" else engine_info(engine).name
    named = [bundle.manifest.variant(id_) for id_ in split_names(ids)] if ids else bundle.manifest.variants
    wanted = [variant for variant in named if engine in ("auto", variant.requires.engine)]
    if not wanted:
        left_out = bundle.manifest.left_out
        raise EngineError(f"{bundle.path} has no such variant for engine {engine}{left_out}", fix="leave --engine out")
    return wanted


def _split(wanted: list[Variant]) -> tuple[list[Variant], list[Obstacle]]:
    """Those that can run here, and why the others cannot; the first reason as an error when none can."""
    found = [(variant, obstacle(variant) or _unusable(variant)) for variant in wanted]
    unable = [problem for _, problem in found if problem is not None]
    if len(unable) == len(wanted):
        raise unable[0].error
    return [variant for variant, problem in found if problem is None], unable


def _unusable(variant: Variant) -> Obstacle | None:
    """Why the library that `variant` needs cannot be imported, None when it can."""
    info = engine_info(variant.requires.engine)
    try:
        import_for(info.name, info.module)
    except EngineError as error:
        return Obstacle(variant.id, error)
    return None


def _not_run(unable: list[Obstacle]) -> list[str]:
    return [f"not run: {found.variant}: {' '.join(str(found.error).split())}" for found in unable]


def _report_entry(result: dict[str, Any]) -> dict[str, Any]:
    """A `VariantLatency` as report.json has it: identity on top, all times under "latency"."""
    identity = {key: result.pop(key) for key in ("id", "engine", "engine_version", "bytes")}
    return {**identity, "latency": {**result.pop("run"), **result}}


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


if __name__ == "__main__":
    sys.exit(main())
