"""The command line: verbs only. What a verb needs is imported inside it, so `tether --help` answers at once.

run             a whole recipe, or one of its stages
sft reward ppo …   one stage from flags; `LEARN` and `PURSUE` have them all
sample chat     talk to a checkpoint
annotate        an app in which people say which responses they prefer
label           programs that do the same
export import   data out of a preference store, answers into it
coverage        whether labelled prompts are like the policy's
learning-curve  what more labels would buy
show report     what a run came to
recipe          check a recipe, print its schema
doctor          what is installed, what would be used
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tether.cli_stores import add_verbs
from tether.errors import InputError, Unavailable
from tether.printing import facts_lines

app = typer.Typer(
    name="tether",
    help="The human-feedback loop of language models: preferences, SFT, reward model, RL or DPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="Check recipes, or help an editor write them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipes, name="recipe")

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; repeatable.")]
RecipeSets = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Override a field; repeatable.")
]
RecipePath = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A TOML file, or a shipped recipe such as quickstart.")
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under runs/.")]
Model = Annotated[str, typer.Option(help="Where the weights start: base (shipped), a folder or a hub id.")]
Data = Annotated[str, typer.Option(help="JSONL, JSON, CSV, Parquet, a datasets folder, a hub id or demo:NAME.")]
Out = Annotated[Path, typer.Option(help="Folder of the result.")]
Reward = Annotated[str, typer.Option(help="A reward model (folder or hub id), a verifier, or MODULE:FUNCTION.")]
Talked = Annotated[str, typer.Argument(metavar="MODEL", help="base (shipped), a folder or a hub id.")]
Temperature = Annotated[float, typer.Option(min=1e-6, help="Divides the logits.")]
TopP = Annotated[float, typer.Option(min=1e-6, max=1.0, help="Keep the smallest set of tokens with this probability.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same replies.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="A preference store: a file or postgresql://… address.")
]

# An operating system's refusal is the user's to mend, not a bug: the sentence is enough, the traceback is noise.
_REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
}
# Typer carries its own copy of click in some versions; its error class is found through typer's.
_UsageError: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 2 for a mistake of the user's, 130 when interrupted."""
    try:
        code = int(app(args=args, prog_name="tether", standalone_mode=False) or 0)
        if code == 130:  # newer typers turn Ctrl-C into an exit code themselves
            print("interrupted", file=sys.stderr)
        return code
    except (InputError, Unavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except _UsageError as error:
        error.show()
        return int(error.exit_code)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130


def _version(wanted: bool) -> None:
    if wanted:
        from tether import __version__

        print(f"tether {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The human-feedback loop of language models: preferences, SFT, reward model, RL or DPO, evaluation."""


@app.command()
def run(
    recipe: RecipePath,
    sets: RecipeSets = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage only; those it needs must be done.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME when not given.")] = None,
) -> None:
    """Run a recipe: skip what is done, resume what was cut, repeat what changed."""
    from tether import pipeline

    pipeline.run(recipe, sets or [], only_stage=stage, out=out)


LEARN = {
    "lm": ("lm", "Train a language model on plain text."),
    "sft": ("sft", "Fine-tune on demonstrations: the loss is on the responses."),
    "reward": ("reward_model", "Train a reward model on comparisons."),
    "process-reward": ("process_reward", "Train a process reward model on labelled steps."),
    "dpo": ("dpo", "Learn from comparisons without a reward model: DPO, IPO, SimPO, CPO and their kin."),
    "kto": ("kto", "Learn from single responses marked desirable or not."),
    "orpo": ("orpo", "Imitate chosen responses and avoid rejected ones in one go, without a reference."),
    "spin": ("spin", "Prefer demonstrations to the policy's own answers."),
}
"""Verb → the algorithm it runs on data, and what it does."""
PURSUE = {
    "ppo": ("ppo", "Optimise a policy against a reward with PPO, tethered to where it started."),
    "grpo": ("grpo", "Optimise a policy by comparing a prompt's responses: GRPO, Dr. GRPO, DAPO, GSPO, CISPO."),
    "reinforce": ("reinforce", "Optimise a policy with REINFORCE and a baseline: RLOO, ReMax, REINFORCE++."),
    "online-dpo": ("online_dpo", "Run DPO on fresh responses, compared by a reward."),
}
"""Verb → the algorithm it runs on prompts and a reward, and what it does."""


def _learn(verb: str, algorithm: str, about: str) -> None:
    @app.command(verb, help=about)
    def learn(model: Model, data: Data, out: Out, sets: Sets = None) -> None:
        _single(algorithm, model, data, out, sets)


def _pursue(verb: str, algorithm: str, about: str) -> None:
    @app.command(verb, help=about)
    def pursue(model: Model, data: Data, out: Out, reward: Reward, sets: Sets = None) -> None:
        _single(algorithm, model, data, out, sets, reward)


for _verb, _about in LEARN.items():
    _learn(_verb, *_about)
for _verb, _about in PURSUE.items():
    _pursue(_verb, *_about)


def _single(
    algorithm: str, model: str, data: str, out: Path, sets: list[str] | None, reward: str | None = None
) -> None:
    from tether import pipeline

    pipeline.run_single(algorithm, model, data, out, reward=reward, overrides=sets or [])


@app.command()
def sample(
    model: Talked,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts; stdin's lines when none.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Replies to each prompt.")] = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer prompts with a checkpoint."""
    given = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not given:
        raise InputError("no prompt given; name one after the model, or send one a line to the standard input")
    from tether.pipeline import talk

    rows = talk.sample(
        model, given, k=k, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
    )
    for row in rows:
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(f"> {row['prompt']}\n{row['response']}\n")


@app.command()
def chat(
    model: Talked,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
) -> None:
    """Talk to a checkpoint in the terminal; an empty line or Ctrl-D ends it."""
    from tether.pipeline import talk

    talk.chat(model, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)


@app.command()
def annotate(
    store: Annotated[
        str, typer.Argument(metavar="[STORE]", help="A file (made when missing) or postgresql://… address.")
    ] = "preferences.sqlite",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8400,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM), to serve by TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    insecure_public: Annotated[
        bool, typer.Option("--insecure-public", help="Let other machines in without TLS: passwords travel readable.")
    ] = False,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="A proxy on this machine adds TLS, Host and X-Forwarded-For."),
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name the server is reached by; repeatable.")
    ] = None,
    files: Annotated[Path, typer.Option(help="Folder whose files and checkpoints admins may use.")] = Path("."),
) -> None:
    """Serve the annotation app: projects, guidelines, people's judgements, agreement, export."""
    from tether.pipeline import annotate

    hosts = tuple(allowed_host or ())
    where = annotate.Listen(host, port, tls_cert, tls_key, insecure_public, behind_proxy, hosts)
    annotate.annotate(store, where, files)


add_verbs(app)


@app.command()
def coverage(
    labelled: Annotated[str, typer.Argument(metavar="LABELLED", help="Data as in a recipe, or a stage's artifact.")],
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Likewise: the prompts that the policy will see.")],
    run: Annotated[str | None, typer.Option(help="The run that stage:NAME is looked up in: folder, or name.")] = None,
    labelled_split: Annotated[str, typer.Option(help="Which split of LABELLED.")] = "train",
    policy_split: Annotated[str, typer.Option(help="Which split of POLICY.")] = "train",
    most: Annotated[int, typer.Option(min=2, help="Of more prompts than this, of either side, draw as many.")] = 5000,
    worst: Annotated[int, typer.Option(min=1, help="How many of the farthest prompts to show.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws and tests the same.")] = 0,
    as_json: Json = False,
) -> None:
    """Say whether the prompts that were labelled look like those that the policy will see."""
    folder = None if run is None else run_folder(run)
    from tether.pipeline import coverage_report

    splits = (labelled_split, policy_split)
    found = coverage_report.coverage_report(
        labelled, policy, run=folder, splits=splits, most=most, num_worst=worst, seed=seed
    )
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(coverage_report.told(found)))


@app.command("learning-curve")
def learning_curve(
    model: Model,
    data: Data,
    out: Out,
    sizes: Annotated[
        str | None, typer.Option(metavar="N,N,N…", help="Numbers of labels; 1/8, 1/4, 1/2 and all when not given.")
    ] = None,
    more: Annotated[int, typer.Option(min=1, help="Forecast what this many further labels would buy.")] = 200,
    held_out: Annotated[float, typer.Option(help="Share of the prompts that accuracy is measured on.")] = 0.2,
    seeds: Annotated[int, typer.Option(min=1, help="Reward models of each size.")] = 3,
    run: Annotated[str | None, typer.Option(help="The run that stage:NAME is looked up in: folder, or name.")] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Train reward models on ever more labels, and say what further labels would buy; again, it goes on."""
    folder = None if run is None else run_folder(run)
    try:
        numbers = tuple(int(size) for size in (sizes or "").split(",") if size)
    except ValueError:
        raise InputError(f"sizes '{sizes}': must be whole numbers with commas between, such as 50,100,200") from None
    from tether.pipeline import learning_curve

    plan = learning_curve.Plan(numbers, more, held_out, seeds)
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # progress is no JSON
        found = learning_curve.learning_curve(model, data, out, plan, sets or [], folder)
    print(json.dumps(found, indent=2) if as_json else "\n".join(learning_curve.told(found)))


@app.command()
def show(run: RunPath, as_json: Json = False) -> None:
    """Print what a run came to: its stages and their numbers."""
    folder = run_folder(run)
    from tether import pipeline

    facts = pipeline.show(folder)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else "\n".join(facts_lines(facts)))


@app.command()
def report(run: RunPath) -> None:
    """Write a run's report again: one HTML file that needs no network."""
    folder = run_folder(run)
    from tether import pipeline

    print(pipeline.write_report(folder))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what hardware there is, and what would be used."""
    from tether.doctor import examine

    facts = examine()
    print(json.dumps(facts, indent=2) if as_json else "\n".join(facts_lines(facts)))


@recipes.command("check")
def recipe_check(recipe: RecipePath, sets: RecipeSets = None) -> None:
    """Read a recipe and say everything that is wrong with it."""
    from tether import pipeline
    from tether.config import load_recipe

    checked = load_recipe(recipe, pipeline.sections(), sets or [])
    stages = ", ".join(f"{s.name} ({s.algorithm})" for s in checked.stages)
    count = f"{len(checked.stages)} stage{'s' * (len(checked.stages) > 1)}"
    print(f"{recipe}: fine; {count} into {checked.run.folder}: {stages}")


@recipes.command("schema")
def recipe_schema_() -> None:
    """Print the JSON schema of recipes, for an editor's completion."""
    from tether import pipeline
    from tether.config.schema import recipe_schema

    print(json.dumps(recipe_schema(pipeline.sections()), indent=2))


def run_folder(run: str) -> Path:
    """The folder a run's path or name stands for; InputError when there is none."""
    places = (Path(run), Path("runs") / run)
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        raise InputError(f"{run}: no such run; expected a run's folder, or its name under runs/")
    return folder
