"""Verbs on a preference store: answers in, programs at work, data out that training takes."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
from tests.cli.conftest import learn, refused

from tether.cli import main
from tether.feedback.projects import Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store

KIND, CROSS = ("I am fine thank you", "you are the great happy cat"), ("hate", "the mat is bad")


@pytest.fixture
def place(bench: Path) -> Path:
    """`s.db` holds the project `kind` of eight open pairs, and `fix` of two answers to correct, in the bench."""
    with Store.open(bench / "s.db") as store:
        project = store.add_project("kind", "pair", Settings(overlap=3, ties=False))
        store.add_guideline("Prefer the kinder one.", project)
        prompts = store.add_prompts([NewPrompt(f"how are you {n}") for n in range(8)])
        new = [NewResponse(p, side[n % 2], checkpoint="sft") for n, p in enumerate(prompts) for side in (KIND, CROSS)]
        ids = store.add_responses(new)
        store.add_items([NewItem(ids[i : i + 2], 3, project=project) for i in range(0, 16, 2)])
        editing = store.add_project("fix", "edit")
        guideline = store.add_guideline("Mend it.", editing)
        user = store.add_user("ann")
        store.add_items([NewItem([i], 1, "edit", editing) for i in ids[:4]])
        for held in store.claim_many(user, 4, project=editing):
            store.submit(held.id, None, str(held.id), guideline=guideline, correction="hello there")
    return bench


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def labelled(capsys: pytest.CaptureFixture[str]) -> dict:
    return printed(["label", "s.db", "--project", "kind"], capsys)


def test_programs_label_up_to_the_overlap_and_no_further(place, capsys):
    first = labelled(capsys)
    assert (first["items"], first["votes"], first["ties"]) == (8, 24, 0)
    again = labelled(capsys)
    assert again == first
    with Store.open(place / "s.db") as store:
        assert {u.kind for u in store.users() if u.name.startswith("vader")} == {"simulated"}
        assert len({j.user for j in store.judgements()}) > 4  # the ten raters share the work
        store.undo(store.judgements()[-1].id, "u")
    assert labelled(capsys)["votes"] == 24  # what was taken back is answered again


def test_a_judge_labels_and_is_not_asked_again(place, capsys):
    (place / "judge.toml").write_text('model = "chat"\n')
    args = ["label", "s.db", "--project", "kind", "--annotators", "judge.toml"]
    told = printed(args, capsys)
    assert told["votes"] + told["skips"] == 8
    assert told["spent"]["cost"] == 0
    journal = (place / "s.db.judge.jsonl").read_bytes()
    assert journal
    assert printed(args, capsys) == told
    assert (place / "s.db.judge.jsonl").read_bytes() == journal


def test_what_is_exported_can_be_imported(place, capsys):
    labelled(capsys)
    told = printed(["export", "s.db", "--project", "kind", "--shape", "judgements", "--out", "j.jsonl"], capsys)
    assert (told["rows"], told["shape"]) == (24, "judgements")
    args = ["import", "j.jsonl", "--store", "t.db", "--project", "copy"]
    assert printed(args, capsys)["answers"] == 24
    assert printed(args, capsys) | {"known": 24} == printed(args, capsys)
    first = printed(["export", "s.db", "--project", "kind", "--out", "a"], capsys)
    second = printed(["export", "t.db", "--out", "b"], capsys)
    assert first["rows"] == second["rows"] == 8
    assert (place / "a" / "README.md").is_file()


def test_options_reach_the_export(place, capsys):
    labelled(capsys)
    (place / "salt").write_text("pepper")
    options = [
        "--kind",
        "simulated",
        "--guideline",
        "1",
        "--held-out",
        "0.4",
        "--min-votes",
        "3",
        "--margin",
        "strength",
    ]
    options += ["--min-agreement", "0.5", "--format", "parquet", "--license", "mit", "--salt-file", "salt"]
    told = printed(["export", "s.db", "--project", "kind", "--out", "o", *options], capsys)
    assert told["rows"] == 8
    assert {p.name for p in (place / "o").iterdir()} == {"README.md", "train.parquet", "test.parquet"}
    assert 'license: "mit"' in (place / "o" / "README.md").read_text()


@pytest.mark.parametrize(
    ("verb", "shape"),
    [
        ("reward", "preferences"),
        ("reward", "rankings"),
        ("dpo", "preferences"),
        ("kto", "unpaired"),
        ("sft", "demonstrations"),
    ],
)
def test_training_takes_what_is_exported(verb, shape, place, capsys):
    labelled(capsys)
    assert main(["export", "s.db", "--shape", shape, "--out", "data.jsonl"]) == 0
    assert main(learn(verb, "data.jsonl")) == 0
    assert (place / "out" / "model").is_dir()


@pytest.mark.parametrize("refusal", [FileExistsError, PermissionError])
def test_a_store_that_another_process_makes_meanwhile_is_added_to(refusal, place, capsys, monkeypatch):
    def link(made: Path, wanted: Path) -> None:
        if refusal is FileExistsError:
            with Store.open(wanted) as theirs:
                theirs.add_user("their own")
        raise refusal

    monkeypatch.setattr("os.link", link)
    args = ["import", "pairs.jsonl", "--store", "n.db", "--project", "p"]
    assert printed(args, capsys)["answers"] == 4
    with Store.open(place / "n.db") as store:
        assert len(store.judgements()) == 4
        assert {user.name for user in store.users()} - {"imported"} == (
            {"their own"} if refusal is FileExistsError else set()
        )
    assert [file.name for file in place.iterdir() if file.name.startswith(".")] == []


@pytest.fixture
def thumbs(place: Path) -> list[dict]:
    """KTO's rows, imported into `t.db` and exported to `thumbs.jsonl` and, by `datasets`, to `thumbs`."""
    rows = [
        {"prompt": f"how are you {n}", "completion": (KIND, CROSS)[n % 2][0], "label": n % 2 == 0} for n in range(8)
    ]
    (place / "kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["import", "kto.jsonl", "--store", "t.db", "--project", "thumbs"]) == 0
    for out in ("thumbs.jsonl", "thumbs"):
        assert main(["export", "t.db", "--shape", "unpaired", "--out", out, "--format", "datasets"]) == 0
    return rows


def test_kto_s_rows_come_back_and_train(thumbs, place):
    told = [json.loads(line) for line in (place / "thumbs.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in thumbs[0]} for row in told] == thumbs
    assert main(learn("kto", "thumbs.jsonl")) == 0
    assert (place / "out" / "model").is_dir()


@pytest.mark.slow
def test_trl_s_kto_trains_on_them(thumbs, place):
    pytest.importorskip("trl")
    import datasets
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL, torch and accelerate about each other
        from trl import KTOConfig, KTOTrainer

        config = KTOConfig(
            output_dir=str(place / "trl"),
            per_device_train_batch_size=4,
            max_steps=2,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = KTOTrainer(
            transformers.AutoModelForCausalLM.from_pretrained(place / "chat"),
            args=config,
            train_dataset=datasets.load_from_disk(str(place / "thumbs"))["train"],
            processing_class=transformers.AutoTokenizer.from_pretrained(place / "chat"),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["export", "no.db", "--out", "x"], ("no.db", "no such store")),
        (["label", "no.db", "--project", "p"], ("no.db", "no such store")),
        (["export", "s.db", "--out", "x.txt"], ("x.txt", ".jsonl, .csv, .parquet", "folder")),
        (["export", "s.db", "--out", "x", "--project", "p"], ("project 'p'", "kind, fix")),
        (["export", "s.db", "--out", "x", "--project", "kind"], ("nothing to export as preferences",)),
        (["export", "s.db", "--out", "x", "--shape", "pairs"], ("'pairs'", "preferences, rankings")),
        (["export", "s.db", "--out", "x", "--kind", "robot"], ("'robot'", "human, ai, simulated")),
        (["export", "s.db", "--out", "x", "--guideline", "1"], ("name one project",)),
        (["export", "s.db", "--out", "x", "--project", "kind", "--guideline", "7"], ("version 7", "its versions: 1")),
        (["export", "s.db", "--out", "x", "--salt-file", "none"], ("none", "cannot be read")),
        (["export", "s.db", "--out", "x", "--salt-file", "empty"], ("empty", "is empty")),
        (["export", "good.jsonl", "--out", "x"], ("good.jsonl", "cannot be used as a preference store")),
        (["label", "s.db", "--project", "fix"], ("'fix'", "pairs and rankings, not kind edit")),
        (["label", "s.db", "--project", "kind", "--annotators", "gpt"], ("'gpt'", "vader, or a TOML file")),
        (["label", "s.db", "--project", "kind", "--annotators", "j.toml"], ("j.toml", "cannot be read")),
        (["label", "s.db", "--project", "kind", "--annotators", "good.toml"], ("good.toml", "modle", "model")),
        (["import", "none.jsonl", "--store", "n.db", "--project", "p"], ("none.jsonl", "no such file")),
        (
            ["import", "good.jsonl", "--store", "n.db", "--project", "p"],
            ("good.jsonl", "prompt_response", "no answers"),
        ),
        (["import", "pairs.jsonl", "--store", "n.db", "--project", "p", "--kind", "x"], ("kind 'x'", "pair, ranking")),
        (
            ["import", "pairs.jsonl", "--store", "sqlite:///n.db", "--project", "p", "--kind", "rating"],
            ("project 'p'", "holds no ratings"),
        ),
        (["import", "pairs.jsonl", "--store", "none/n.db", "--project", "p"], ("none/n.db", "make it first")),
        (["import", "pairs.jsonl", "--store", ":memory:", "--project", "p"], ("':memory:'", "cannot be kept there")),
        (
            ["import", "pairs.jsonl", "--store", "s.db", "--project", "fix"],
            ("pairs.jsonl", "written answers", "'fix' of kind edit"),
        ),
    ],
)
def test_one_sentence_for_a_mistake(args, says, place, capsys):
    (place / "good.toml").write_text('modle = "chat"')
    (place / "empty").touch()
    before = sorted(place.iterdir())
    refused(args, says, capsys)
    assert sorted(place.iterdir()) == before
