"""The command line `neuron-atlas`. Nothing heavy is imported before a command is known and its arguments are valid.

So each command imports what it needs inside its function; everywhere else imports stand at the top of the file.

Exit codes: 0 done, 1 failed, 2 usage or bad recipe, 3 finished with failed units.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from jobs.run.run_folder import STAGES
from pipeline.errors import UserError
from pipeline.recipe.recipe import Recipe, RecipeError, Stage, load_recipe

DONE: Final = 0
FAILED: Final = 1
BAD_USAGE: Final = 2
DONE_WITH_FAILED_UNITS: Final = 3

DESCRIPTION: Final = """\
Make browsable atlases of every neuron of a vision model.

  neuron-atlas demo                       the whole pipeline on dataset images and weights that ship with it
  neuron-atlas shards IMAGES OUT          an image folder as tar shards
  neuron-atlas layers MODEL               what a recipe can name: layers, units, shapes
  neuron-atlas plan RECIPE                what a run would do, and how long it would take
  neuron-atlas run RECIPE                 do it; run it again to go on where it stopped
  neuron-atlas serve OUT                  look at the result

Exit codes: 0 done, 1 failed, 2 usage or bad recipe, 3 finished with failed units."""

_STAGE_HELP: Final = {
    "collect": "one pass over the tar shards: statistics of all chosen layers",
    "targets": "reference images of each neuron, their sorted features and relevance",
    "visualize": "optimize the visualizations",
    "evaluate": "score the visualizations",
    "build": "tables, contact sheets and atlas.json",
}


Handler = Callable[[argparse.Namespace], int]
Add = Callable[[str, str, Handler], argparse.ArgumentParser]  # name, help and handler of a command


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="neuron-atlas", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help_text: str, handler: Handler) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(handler=handler)
        return command

    _add_demo(add)
    _add_shards(add)
    _add_layers(add)
    _add_plan(add)
    _add_run_and_stages(add)
    _add_status(add)
    _add_site(add)
    _add_validate(add)
    _add_human_scores(add)
    _add_schema(add)
    _add_serve(add)
    return parser


def _add_demo(add: Add) -> None:
    demo = add("demo", "the whole pipeline on shipped dataset images and real weights, no download", _demo)
    demo.add_argument("--out", default="demo-atlas", metavar="DIR", help="the atlas folder (default: demo-atlas)")
    _add_address(demo)
    _add_set(demo)


def _add_shards(add: Add) -> None:
    shards = add("shards", "write tar shards from an image folder (class subfolders or flat)", _shards)
    shards.add_argument("images", metavar="IMAGES", help="folder of images, or of one subfolder per class")
    shards.add_argument("out", metavar="OUT", help="folder for the tar shards")
    shards.add_argument("--name", help="shards are called NAME-000000.tar … (default: the folder's name)")
    shards.add_argument(
        "--labels",
        metavar="LABELS",
        help="what the class folders are called: a text file of class names in the order of the model's classes, "
        "imagenet1k, or sorted for their places in the sorted list (default: imagenet1k or numbers if all of them fit)",
    )
    shards.add_argument(
        "--first-number", type=_whole, default=0, metavar="N", help="number folders count from N (default: 0)"
    )
    shards.add_argument("--max-samples", type=_positive, metavar="N", help="images per shard")
    shards.add_argument("--max-bytes", type=_positive, metavar="BYTES", help="size of a shard")


def _add_layers(add: Add) -> None:
    layers = add("layers", "list a model's layers with kind, units and shape", _layers)
    layers.add_argument("model", metavar="MODEL", help="timm:NAME, torchvision:NAME, python:…, or a recipe's file")
    layers.add_argument("--filter", action="append", default=[], metavar="GLOB", help="only these, e.g. 'blocks.*'")
    layers.add_argument("--weights", default="random", help="default: random, so nothing is downloaded")
    layers.add_argument("--input-size-px", type=_positive, metavar="N", help="default: the model's own")


def _add_plan(add: Add) -> None:
    plan = add("plan", "does nothing: counts, bytes, what is done, expected time and GPU-hours", _plan)
    _add_recipe(plan)
    plan.add_argument("--workers", type=_positive, metavar="N", help="plan for N workers (default: this machine's)")
    plan.add_argument(
        "--cpu-workers",
        type=_positive,
        metavar="N",
        help="workers without GPUs, for compute.gpus_per_task = 0 (default: N)",
    )


def _add_run_and_stages(add: Add) -> None:
    run = add("run", "all stages; finished tasks are not done again", _run)
    _add_recipe(run)
    run.add_argument("--until", choices=STAGES, metavar="STAGE", help=f"stop after one of {', '.join(STAGES)}")
    _add_address(run)
    for stage in STAGES:
        command = add(stage, f"one stage: {_STAGE_HELP[stage]}", _stage)
        _add_recipe(command)
        _add_address(command)


def _add_status(add: Add) -> None:
    status = add("status", "done, failed and to do per stage; failed neurons with reasons", _status)
    _add_recipe(status)


def _add_site(add: Add) -> None:
    site = add("site", "viewer and atlases as one static folder", _site)
    site.add_argument("out", metavar="OUT", help="folder of the site")
    site.add_argument("atlases", nargs="+", metavar="ATLAS", help="atlas folders or URLs")
    site.add_argument("--pack", action="store_true", help="a few archives per layer, for hosts that limit files")
    site.add_argument("--neuron-pages", metavar="URL", help="a static page per neuron and a sitemap; URL of the site")
    site.add_argument("--embedding-table", action="store_true", help="a table that Apple's Embedding Atlas opens")


def _add_validate(add: Add) -> None:
    validate = add("validate", "check an atlas or a site: schema, counts, hashes, images, tiles", _validate)
    validate.add_argument("path", metavar="PATH", help="atlas folder or site")


def _add_human_scores(add: Add) -> None:
    human = add("human-scores", "answers of a human study: medians, intervals and agreement by method", _human_scores)
    human.add_argument("atlas", metavar="ATLAS", help="folder or URL of the atlas that was scored")
    human.add_argument("answers", nargs="+", metavar="ANSWERS", help="JSON files that the viewer's study page saved")
    human.add_argument("--out", metavar="DIR", help="for human.parquet and human.md (default: next to the first file)")


def _add_schema(add: Add) -> None:
    add("schema", "print the JSON Schema of recipes, by which editors complete and check them", _schema)


def _add_serve(add: Add) -> None:
    serve = add("serve", "preview an atlas or a site on 127.0.0.1", _serve)
    serve.add_argument("path", metavar="PATH", help="atlas folder or site")
    serve.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: 8000)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is one message; a bug keeps its traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = make_parser().parse_args(words)
    except SystemExit as stop:  # argparse has printed usage or help
        return int(stop.code or 0)
    try:
        with terminate_as_interrupt():
            return parsed.handler(parsed)
    except KeyboardInterrupt:
        return _interrupted(words)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): print no more, also not at interpreter shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"neuron-atlas {parsed.command}: {error}", file=sys.stderr)
        return code


def exit_code_of(error: Exception) -> int | None:
    """The exit code of an error that a user can meet and mend, None of a bug."""
    from jobs.engine.tasks import RunStoppedError

    if isinstance(error, RecipeError):
        return BAD_USAGE
    # A place that cannot be read or written, a run that cannot go on, a value of the user.
    if isinstance(error, (OSError, RunStoppedError, UserError)):
        return FAILED
    return None


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a command the way Ctrl-C does; `RayEngine` keeps this handler where Ray would set its own."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(words: Sequence[str]) -> int:
    print("\nneuron-atlas: stopped", file=sys.stderr)
    if words[0] in ("demo", "run", *STAGES):
        command = shlex.join(["neuron-atlas", *words])
        print(f"Finished tasks are stored. To go on where it stopped:\n  {command}", file=sys.stderr)
    return FAILED


def _demo(arguments: argparse.Namespace) -> int:
    from jobs.commands.demo import run_demo

    failed = run_demo(arguments.out, address=arguments.address, overrides=arguments.set)
    return DONE_WITH_FAILED_UNITS if failed else DONE


def _shards(arguments: argparse.Namespace) -> int:
    from jobs.commands.shards import shards_of_folder

    limits = {"max_samples": arguments.max_samples, "max_bytes": arguments.max_bytes}
    print(
        shards_of_folder(
            arguments.images,
            arguments.out,
            name=arguments.name,
            labels=arguments.labels,
            first_number=arguments.first_number,
            limits={key: value for key, value in limits.items() if value is not None},
        )
    )
    return DONE


def _layers(arguments: argparse.Namespace) -> int:
    from jobs.commands.layers import describe_layers, list_layers, open_model

    model = open_model(arguments.model, weights=arguments.weights, input_size_px=arguments.input_size_px)
    print(describe_layers(model, list_layers(model, arguments.filter)))
    return DONE


def _plan(arguments: argparse.Namespace) -> int:
    from jobs.commands.plan import describe_plan, make_plan

    workers, cpu_workers = arguments.workers, arguments.cpu_workers
    print(describe_plan(make_plan(_load(arguments), num_workers=workers, num_cpu_workers=cpu_workers)))
    return DONE


def _run(arguments: argparse.Namespace) -> int:
    return _stages(arguments, STAGES[: STAGES.index(arguments.until or STAGES[-1]) + 1])


def _stage(arguments: argparse.Namespace) -> int:
    return _stages(arguments, (arguments.command,))


def _stages(arguments: argparse.Namespace, stages: Sequence[Stage]) -> int:
    from jobs.runner import run_stages

    reports = run_stages(_load(arguments), stages, address=arguments.address)
    return DONE_WITH_FAILED_UNITS if any(report.failed for report in reports) else DONE


def _status(arguments: argparse.Namespace) -> int:
    from jobs.commands.status import describe_status, read_status

    print(describe_status(read_status(_load(arguments))))
    return DONE


def _site(arguments: argparse.Namespace) -> int:
    from pipeline.atlas.site.site import write_site
    from pipeline.atlas.site.site_parts import SiteForm
    from pipeline.io.root import Root

    form = SiteForm(
        packed=arguments.pack,
        neuron_pages_url=arguments.neuron_pages,
        embedding_table=arguments.embedding_table,
    )
    print(write_site(arguments.out, [Root.open(atlas) for atlas in arguments.atlases], form))
    return DONE


def _validate(arguments: argparse.Namespace) -> int:
    from jobs.reporting.progress import Progress
    from pipeline.atlas.validation.validate import validate

    @contextlib.contextmanager
    def watch(num_files: int) -> Iterator[Callable[[int], None]]:
        with Progress("validate", total=num_files, noun="files") as progress:
            yield progress.advance

    faults = validate(arguments.path, watch=watch)
    for fault in faults:
        print(fault)
    if faults:
        print(f"{arguments.path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", file=sys.stderr)
        return FAILED
    print(f"{arguments.path}: no faults")
    return DONE


def _human_scores(arguments: argparse.Namespace) -> int:
    from jobs.commands.human_scores import score_files

    print(score_files(arguments.atlas, arguments.answers, arguments.out))
    return DONE


def _schema(_: argparse.Namespace) -> int:
    draft = "http://json-schema.org/draft-07/schema#"  # the one that every editor knows
    print(json.dumps({"$schema": draft, **Recipe.json_schema()}, indent=2, ensure_ascii=False))
    return DONE


def _serve(arguments: argparse.Namespace) -> int:
    from pipeline.atlas.site.serve import serve

    serve(arguments.path, port=arguments.port)
    return DONE


def _load(arguments: argparse.Namespace) -> Recipe:
    return load_recipe(arguments.recipe, overrides=arguments.set)


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a run's TOML file, path or URL")
    _add_set(command)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a recipe key, e.g. --set visualize.steps=50; may be given several times",
    )


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        default="local",
        type=_address,
        metavar="ADDR",
        help="local (default): Ray on this machine; auto or ray://HOST:PORT: a cluster; inline: no Ray, one process",
    )


def _address(text: str) -> str:
    if text in ("local", "auto", "inline") or text.startswith("ray://"):
        return text
    raise argparse.ArgumentTypeError(f"{text!r}: expected local, auto, ray://HOST:PORT or inline")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
