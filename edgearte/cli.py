"""The commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from edgearte import __version__
from edgearte.errors import UserError

EXIT_MISTAKE, EXIT_BUG, EXIT_INTERRUPTED = 2, 1, 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="edgearte",
        description="Teach a small language model from a big one, and deliver it to the device it is for.",
    )
    top.add_argument("--version", action="version", version=f"edgearte {__version__}")
    top.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about)

    init = command("init", "copy a packaged recipe with its data")
    init.add_argument("name", help="the folder to make")
    init.add_argument(
        "--from", dest="source", default="quickstart", metavar="RECIPE", help="a packaged recipe (default: quickstart)"
    )
    init.add_argument("--data", type=Path, metavar="PATH", help="the public data set that the recipe is about, where it needs one of yours")

    ls = command("ls", "list recipes, export presets, devices and benchmark suites")
    ls.add_argument("what", nargs="?", choices=["recipes", "export", "devices", "benchmarks"], help="only these")

    for name, about in (
        ("validate", "check a recipe and foretell what a build of it takes"),
        ("build", "run a recipe: draft, prefer, align, tailor, train, export, measure"),
        ("ablate", "compare the ways to teach that a recipe's store allows, at equal size, with several seeds"),
        ("tailor", "teach a recipe's student with a teacher that was aligned elsewhere, and compare"),
    ):
        sub = command(name, about)
        sub.add_argument("recipe", help="a recipe file, or the name of a packaged recipe")
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="change a key of the recipe, such as train.epochs=2"
        )
        sub.add_argument("--runs", type=Path, default=Path("runs"), help="where runs and the store lie (default: runs)")
        if name == "validate":
            about = "only see whether there is something to teach: teacher and student answer the development questions"
            sub.add_argument("--probe", action="store_true", help=about)
        if name in ("ablate", "tailor"):
            sub.add_argument("--seeds", type=_positive, default=3 if name == "ablate" else 1, metavar="N",
                             help="how many seeds, each a whole run from the drafts on (default: %(default)s)")  # fmt: skip
        if name == "ablate":
            sub.add_argument("--arms", default="", help="these only, separated by commas (default: all)")
            sub.add_argument("--calls", type=_positives, default=(), metavar="N,N,…",
                             help="budgets of the teacher's answers, for arms with an assistant (default: the recipe's)")  # fmt: skip
        if name == "tailor":
            sub.add_argument("--teacher", type=Path, required=True, help="the run that aligned it, or its folder")

    export = command("export", "export a model: a folder, a .gguf file, a hub id or package:NAME")
    export.add_argument("model")
    export.add_argument("--to", default="q8_0", help="export presets, separated by commas (default: q8_0)")
    export.add_argument(
        "--out", type=Path, default=Path("exported"), help="folder for the artifacts (default: exported)"
    )
    export.add_argument(
        "--texts", type=Path, help="held-out texts for the logit gate, one a line, or .jsonl (default: a few general ones)"
    )
    export.add_argument(
        "--calibrate", type=Path, metavar="FILE",
        help="like --texts, of what the model is for, or an importance matrix of llama.cpp's; low-bit presets keep what matters",
    )
    export.add_argument(
        "--store", type=Path, default=Path("runs/store"), help="where finished work is kept (default: runs/store)"
    )

    push = command("push", "put a bundle onto the Hugging Face Hub")
    push.add_argument("bundle", type=Path, help="a bundle's folder, as `edgearte build` leaves it in runs/NAME/bundle")
    push.add_argument("repo", help="the repository, owner/name; made where it is not there yet")
    push.add_argument("--private", action="store_true", help="make it a private one")
    push.add_argument("--dry-run", action="store_true", help="show what would go, and send nothing")

    device = command("device", "add a device, set an emulated one up, or remove what was put onto one")
    doing = device.add_subparsers(dest="doing", required=True, metavar="ACTION")
    add = doing.add_parser("add", help="ask for a device, probe it, and write its profile")
    for option, about in (("name", "what to call it"), ("reach", "ssh or adb"), ("address", "user@host[:port], or adb's serial number"),
                          ("identity", "the file of a private key")):  # fmt: skip
        add.add_argument(f"--{option}", default="", help=f"{about} (asked where it is not given)")
    add.add_argument("--jump", default="", help="user@host[:port] to go through")
    add.add_argument("--known-hosts", default="", help="the file of the host keys that are trusted (default: ssh's own)")
    for action, about in (("setup", "make the root file system of an emulated device"), ("clean", "remove what was put onto a device")):
        doing.add_parser(action, help=about).add_argument("name")

    bench = command("bench", "measure artifacts on this machine, or on devices")
    bench.add_argument(
        "artifacts", nargs="+", type=Path, metavar="ARTIFACT", help="a .gguf file or a folder with genai_config.json"
    )
    bench.add_argument("--device", action="append", default=[], metavar="NAME",
                       help="where to measure; several times, or names between commas (default: local)")  # fmt: skip
    bench.add_argument("--suite", default="standard", help="a benchmark suite (default: standard)")
    bench.add_argument("--threads", type=int, default=0, help="threads (default: as many as there are cores)")
    bench.add_argument("--json", action="store_true", help="print one JSON record a line")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write it too, as the file's name ends: .json, .md or .html")
    bench.add_argument("--compare", type=Path, metavar="OLD.json",
                       help="what --json printed before; says what has become worse, and ends with 1 where something has")  # fmt: skip

    report = command("report", "make a run's report again from its result.json")
    report.add_argument("run", type=Path, help="a run's folder")
    report.add_argument("--out", type=Path, help="where to write it (default: report.html in the run's folder)")

    doctor = command("doctor", "check the installation and say what to do about what does not work")
    doctor.add_argument("--json", action="store_true")
    return top


def _positives(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is wanted, not {text!r}")
    return int(text)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. argparse takes overrides in one place alone, before an option or after it; here they may stand anywhere."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if any(text.startswith("-") or "=" not in text for text in rest) or (rest and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 2 for the user's mistake, 130 when interrupted, 1 for a bug of ours."""
    args = _parsed(argv)
    for quiet in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(quiet, "1")  # the build shows its own bars
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not args.debug:
        warnings.simplefilter("ignore")  # the libraries' notices to their own developers
    try:
        return int(globals()[f"_{args.command}"](args) or 0)
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept: the same command goes on from there.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except UserError as error:
        if args.debug:
            raise
        for problem in error.problems:
            print(f"edgearte: {problem}", file=sys.stderr)
        return EXIT_MISTAKE
    except MemoryError:
        print("edgearte: memory ran out; close other programs, or take a smaller model or batch", file=sys.stderr)
        return EXIT_MISTAKE
    except Exception as error:
        if args.debug:
            raise
        missing = _missing_extra(error)
        print(f"edgearte: {missing or f'{type(error).__name__}: {error}'}", file=sys.stderr)
        if not missing:
            print("This looks like a defect of edgearte; --debug shows where.", file=sys.stderr)
        return EXIT_MISTAKE if missing else EXIT_BUG


def _missing_extra(error: Exception) -> str:
    """What to install when a part of edgearte is not there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    extras = {"llama_cpp": "llamacpp", "onnxruntime_genai": "onnx", "jinja2": "report", "matplotlib": "report", "onnx": "export",
              "convert_hf_to_gguf": "export", "gguf": "export",
              "openai": "endpoint", "tenacity": "endpoint", "aiolimiter": "endpoint"}  # fmt: skip
    root = error.name.partition(".")[0]
    return "" if root == "edgearte" else f"{root} is not installed: pip install 'edgearte[{extras.get(root, 'teach')}]'"


def _recipe_path(name: str) -> Path:
    from edgearte import catalogue
    from edgearte.prepare import DATA

    if name in DATA:
        raise UserError(f"the recipe {name} needs data of yours: edgearte init my-{name} --from {name} --data {DATA[name].wanted}")
    return catalogue.find("recipes", name)


def _init(args: argparse.Namespace) -> None:
    import shutil

    from edgearte import catalogue
    from edgearte.prepare import prepare

    source = catalogue.find("recipes", args.source).parent
    target = Path(args.name)
    if target.exists():
        raise UserError(f"{target}: exists already; name another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        recipe = partial / "recipe.yaml"
        lines = recipe.read_text("utf-8").splitlines(keepends=True)
        recipe.write_text("".join(f"name: {target.name}\n" if x.startswith("name:") else x for x in lines), "utf-8")
        prepare(args.source, args.data, partial)
        partial.rename(target)
    except OSError as error:
        raise UserError(f"{target}: could not be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left half-written
    recipe = target / "recipe.yaml"
    print(f"{recipe} and its data are yours to change.\nedgearte validate {recipe}\nedgearte build {recipe}")


def _ls(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgearte import catalogue

    for kind in [args.what] if args.what else ["recipes", "export", "devices", "benchmarks"]:
        names, more = catalogue.names(kind), dict[str, tuple[str, str]]()
        if kind == "devices" and args.what:  # only where they are asked for: an address that is silent takes its time
            from edgearte.device.command import answering

            more = answering(names)
        table = Table("name", "what it is for", title=kind, title_justify="left", box=None, pad_edge=False)
        if more:
            table.add_column("reached by")
            table.add_column("answers")
        for name in names:
            table.add_row(name, " ".join(str(catalogue.load(kind, name).get("about", "")).split()), *more.get(name, ()))
        Console().print(table, "")


def _device(args: argparse.Namespace) -> None:
    from edgearte.device import command

    if args.doing == "add":
        given = {key: getattr(args, key) for key in command.OPTIONS}
        path = command.add(given, (lambda question: input(f"{question}? ")) if sys.stdin.isatty() else None)
        print(f"{path} is its profile.\nedgearte bench ARTIFACT --device {path.stem}")
    elif args.doing == "setup":
        print(command.setup(args.name))
    else:
        command.clean(args.name)


def _validate(args: argparse.Namespace) -> None:
    from edgearte.forecast import print_forecast
    from edgearte.load import load_recipe, load_task

    if args.probe:
        _probe(args)
        return
    recipe = load_recipe(_recipe_path(args.recipe), args.overrides)
    print_forecast(recipe, load_task(recipe), args.runs)


def _probe(args: argparse.Namespace) -> None:
    from edgearte import probe, steps
    from edgearte.setup import opened

    with opened(_recipe_path(args.recipe), args.overrides, args.runs) as (setup, _):
        probe.print_probe(probe.run(steps.prepared(setup)))


def _build(args: argparse.Namespace) -> int:
    from edgearte.build import build
    from edgearte.report.summary import print_summary

    result = build(_recipe_path(args.recipe), args.overrides, args.runs)
    print_summary(result)
    met = result.closing.met if result.closing else True
    return 0 if met and result.decision and result.decision.preset else 1


def _ablate(args: argparse.Namespace) -> None:
    from edgearte.ablate import ablate
    from edgearte.report.ablation import print_table

    arms = [arm.strip() for arm in args.arms.split(",") if arm.strip()]
    print_table(*ablate(_recipe_path(args.recipe), args.overrides, args.runs, arms, args.seeds, args.calls))


def _tailor(args: argparse.Namespace) -> None:
    from edgearte.ablate import aligned_teacher, transfer
    from edgearte.report.ablation import print_table

    teacher = aligned_teacher(args.teacher)
    print_table(*transfer(_recipe_path(args.recipe), args.overrides, args.runs, teacher, args.seeds))


def _export(args: argparse.Namespace) -> int:
    from edgearte.convert.command import export_command

    return export_command(args.model, args.to.split(","), args.out, args.texts, args.store, args.calibrate)


def _push(args: argparse.Namespace) -> int:
    from edgearte.push import push

    return push(args.bundle, args.repo, private=args.private, dry_run=args.dry_run)


def _bench(args: argparse.Namespace) -> int:
    from edgearte.measure import compare
    from edgearte.measure.bench import bench, table
    from edgearte.report import bench as report

    if args.out:
        report.check(args.out)
    old = compare.read(args.compare) if args.compare else []
    known = dict.fromkeys(m.artifact for m in old)
    if old and (new := [name for name in (path.resolve().name for path in args.artifacts) if name not in known]):
        raise UserError(f"{args.compare}: holds no measurement of {', '.join(new)}; it has {', '.join(known)}")
    measurements = bench(args.artifacts, args.suite, args.threads, args.device)
    verdicts = [v for m in measurements if old for v in compare.against(old, m)]
    if args.out:
        report.write(args.out, measurements, verdicts)
    if args.json:
        print(report.records(measurements, verdicts), end="")
    else:
        table(measurements)
        if verdicts:
            compare.table(verdicts)
    return int(any(v.verdict == compare.WORSE for v in verdicts))


def _report(args: argparse.Namespace) -> None:
    from edgearte.build import read_result
    from edgearte.files import write_text
    from edgearte.report import ablation
    from edgearte.report.html import write_report

    if (args.run / "ablation.json").is_file():
        found = ablation.read(args.run)
        out = args.out or args.run / "report.html"
        write_text(out, ablation.render(found, ablation.rows(found)))
        print(out)
        return
    out = args.out or (args.run if args.run.is_dir() else args.run.parent) / "report.html"
    write_report(read_result(args.run), out)
    print(out)


def _doctor(args: argparse.Namespace) -> int:
    from edgearte.doctor import run

    return run(json=args.json)


if __name__ == "__main__":
    sys.exit(main())
