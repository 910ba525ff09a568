"""Bad inputs through the real command line: one sentence each, exit code 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Case, looks_finished, ppo, recipe, refused_whole, reward, sft

from tether.cli import main

RUN = ["run", "r.toml", "--out", "out"]
SFT = 'name = "sft"\nalgorithm = "sft"\nmodel = "chat"\ndata.path = "good.jsonl"\ntrain.steps = 1'
PAIRS = 'name = "pairs"\nalgorithm = "sample"\nmodel = "stage:sft"\ndata.path = "prompts.jsonl"'
LABEL = 'name = "votes"\nalgorithm = "label"\nresponses = "stage:sft"'
PPO = 'name = "ppo"\nalgorithm = "ppo"\nmodel = "stage:sft"\nreward = "{}"\ndata.path = "prompts.jsonl"'

ROW = '{"prompt": "hello", "response": "fine"}\n'
LONG = '{"prompt": "' + "zq" * 60 + '", "response": "fine"}\n'

DATA = {
    "no such file": Case(sft("gone.jsonl"), ("gone.jsonl", "no such file")),
    "no such folder": Case(sft("./gone"), ("gone", "no such file")),
    "another ending": Case(sft("a.txt"), ("a.txt", ".jsonl, .json, .csv, .parquet", "'.txt'"), {"a.txt": "hello"}),
    "empty file": Case(sft("a.jsonl"), ("a.jsonl", "empty"), {"a.jsonl": ""}),
    "empty csv": Case(sft("a.csv"), ("a.csv", "empty"), {"a.csv": "prompt,response\n"}),
    "not utf-8": Case(
        sft("a.jsonl"), ("a.jsonl, line 2", "not UTF-8"), {"a.jsonl": ROW.encode() + b'{"prompt": "\xff'}
    ),
    "bad json": Case(sft("a.jsonl"), ("a.jsonl, line 3", "not valid JSON"), {"a.jsonl": ROW + ROW + "{'prompt': 1}\n"}),
    "json line not an object": Case(sft("a.jsonl"), ("a.jsonl, line 2", "list", "object"), {"a.jsonl": ROW + "[1]\n"}),
    "json not a list": Case(sft("a.json"), ("a.json", "list of objects"), {"a.json": ROW}),
    "ragged csv": Case(
        sft("a.csv"), ("a.csv, line 3", "number of fields"), {"a.csv": "prompt,response\nhi,hello\nhi,hello,you\n"}
    ),
    "unclosed quote in csv": Case(sft("a.csv"), ("a.csv", "not valid CSV"), {"a.csv": 'prompt,response\n"hi,hello\n'}),
    "not parquet": Case(sft("a.parquet"), ("a.parquet", "not a Parquet file"), {"a.parquet": b"PAR1 but no more"}),
    "unknown columns": Case(
        sft("a.jsonl"),
        ("a.jsonl", "columns quux, answer", "prompt + response", "rename"),
        {"a.jsonl": '{"quux": 1, "answer": "x"}\n'},
    ),
    "a column gone later": Case(
        sft("a.jsonl"), ("a.jsonl", "row 2", "no column 'response'"), {"a.jsonl": ROW + '{"prompt": "hello"}\n'}
    ),
    "wrong kind of data": Case(
        sft("pairs.jsonl"), ("pairs.jsonl", "preference data", "prompt_response (prompt + response) or messages")
    ),
    "rename what is not there": Case(
        sft("good.jsonl", "data.rename={quux='response'}"), ("good.jsonl", "'quux'", "prompt, response")
    ),
    "response null": Case(
        sft("a.jsonl"),
        ("a.jsonl", "row 2", "column 'response'", "empty (null)"),
        {"a.jsonl": ROW + '{"prompt": "hello", "response": null}\n'},
    ),
    "response a number": Case(
        sft("a.jsonl"), ("row 1", "column 'response'", "int"), {"a.jsonl": '{"prompt": "hello", "response": 3}\n'}
    ),
    "prompt empty": Case(
        sft("a.jsonl"), ("row 2", "prompt is empty"), {"a.jsonl": ROW + '{"prompt": "", "response": "fine"}\n'}
    ),
    "prompt ends with the assistant": Case(
        ppo("a.jsonl"),
        ("row 1", "ends with an assistant's turn"),
        {"a.jsonl": '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'},
    ),
    "unknown role": Case(
        sft("a.jsonl"),
        ("row 1", "message 1", "role 'narrator'", "system, user, assistant, tool"),
        {"a.jsonl": '{"messages": [{"role": "narrator", "content": "x"}]}\n'},
    ),
    "no assistant turn": Case(
        sft("a.jsonl"),
        ("row 1", "no assistant turn"),
        {"a.jsonl": '{"messages": [{"role": "user", "content": "x"}]}\n'},
    ),
    "message without content": Case(
        sft("a.jsonl"), ("row 1", "message 1", "content", "null"), {"a.jsonl": '{"messages": [{"role": "user"}]}\n'}
    ),
    "half a surrogate": Case(
        sft("a.jsonl"), ("row 1", "surrogate"), {"a.jsonl": '{"prompt": "\\ud800", "response": "x"}\n'}
    ),
    "end token in an answer": Case(
        sft("a.jsonl"), ("row 1", "<|end|>"), {"a.jsonl": '{"prompt": "a", "response": "b<|end|>c"}\n'}
    ),
    "chosen without rejected": Case(
        reward("a.jsonl"),
        ("columns prompt, chosen", "preference (chosen + rejected)"),
        {"a.jsonl": '{"prompt": "a", "chosen": "b"}\n'},
    ),
    "only pairs of the same": Case(
        reward("a.jsonl"),
        ("a.jsonl", "no example is left of 2", "responses ranked apart are the same"),
        {"a.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 2},
    ),
    "unknown split of a file": Case(sft("good.jsonl", "data.split=test"), ("good.jsonl", "'train'", "'test'")),
    "unknown split of a folder": Case(sft("d", "data.split=dev"), ("d", "dev"), {"d/train.jsonl": ROW}),
    "unknown demo": Case(sft("demo:chatter"), ("demo:chatter", "demo:chitchat-chat")),
    "unknown split of a demo": Case(sft("demo:chitchat-chat", "data.split=dev"), ("'dev'", "train, validation, test")),
    "hub data offline": Case(sft("nobody/nothing"), ("nobody/nothing", "train", "neither a file here nor data")),
    "too long": Case(sft("a.jsonl"), ("row 2", "tokens", "limit of 64", "on_too_long"), {"a.jsonl": ROW + LONG}),
    "prompt too long for an answer": Case(ppo("a.jsonl"), ("row 1", "limit of 6", "on_too_long"), {"a.jsonl": LONG}),
    "all dropped": Case(
        sft("a.jsonl", "data.on_too_long=drop"), ("no example is left of 1", "1 too long"), {"a.jsonl": LONG}
    ),
    "held-out prompts trained on": Case(
        sft("good.jsonl", "eval_data.path=good.jsonl"), ("4 of 4 held-out prompts", "hello cat 0", "split the data")
    ),
    "held-out file gone": Case(sft("good.jsonl", "eval_data.path=gone.jsonl"), ("gone.jsonl", "no such file")),
}

FIELDS = {
    "limit 0": Case(sft("good.jsonl", "data.limit=0"), ("field data.limit", "got 0", "whole number >= 1")),
    "unknown key": Case(sft("good.jsonl", "train.stepz=3"), ("train.stepz", "unknown", "did you mean 'steps'")),
    "wrong type": Case(sft("good.jsonl", "train.batch_size=many"), ("train.batch_size", "'many'", "whole number")),
    "lr below 0": Case(sft("good.jsonl", "optim.lr=-1"), ("optim.lr", "got -1", "> 0")),
    "lr infinite": Case(sft("good.jsonl", "optim.lr=inf"), ("optim.lr", "number > 0")),
    "steps and epochs": Case(sft("good.jsonl", "train.epochs=1"), ("train", "`steps` or `epochs`, not both")),
    "top_p in ppo": Case(ppo("prompts.jsonl", "sampling.top_p=0.9"), ("sampling.top_p", "leave them at 0 and 1")),
    "unknown layout": Case(sft("good.jsonl", "train.layout=diagonal"), ("train.layout", "'diagonal'", "'tree'")),
    "unknown device": Case(sft("good.jsonl", "train.device=abacus"), ("'abacus'", "valid: auto, cpu, cuda")),
    "--set without a value": Case(sft("good.jsonl", "train.steps"), ("--set train.steps", "FIELD=VALUE")),
    "--set half a list": Case(sft("good.jsonl", "optim.betas=[0.9"), ("optim.betas", "not valid TOML")),
    "--set within a number": Case(sft("good.jsonl", "seed=1", "seed.x=2"), ("--set seed.x=2", "not within a table")),
}

RECIPES = {
    "toml syntax": Case(RUN, ("r.toml", "not valid TOML", "line 2"), {"r.toml": "[run]\nname = \n"}),
    "no stage": Case(RUN, ("r.toml", "no [[stage]]"), recipe()),
    "no name": Case(RUN, ("[run], field name", "missing"), recipe(SFT, head="")),
    "unknown table": Case(RUN, ("[ruin]", "did you mean 'run'"), recipe(SFT, head='[run]\nname="a"\n[ruin]\n')),
    "unknown algorithm": Case(RUN, ("stage 'a'", "'ppoo'", "did you mean 'ppo'"), recipe('name="a"\nalgorithm="ppoo"')),
    "same name twice": Case(RUN, ("stage 'sft'", "names are given once"), recipe(SFT, SFT)),
    "dangling stage": Case(RUN, ("stage 'pairs', field model", "no stage 'sft'"), recipe(PAIRS)),
    "stage that comes later": Case(RUN, ("stage 'pairs'", "'sft' comes later", "move it"), recipe(PAIRS, SFT)),
    "stage that made no responses": Case(
        RUN, ("stage 'votes', field responses", "stage:sft", "a language model, not responses"), recipe(SFT, LABEL)
    ),
    "stage that made no model": Case(
        RUN,
        ("stage 'ppo', field reward", "stage:pairs", "responses, not a reward model"),
        recipe(SFT, PAIRS, PPO.format("stage:pairs")),
    ),
    "a reward function wrong in the last stage": Case(
        RUN, ("stage 'ppo'", "bad_rewards", "'goood'"), recipe(SFT, PPO.format("bad_rewards:goood"))
    ),
    "data gone in the last stage": Case(
        RUN,
        ("stage 'ppo'", "gone.jsonl", "no such file"),
        recipe(SFT, PPO.format("bad_rewards:good").replace("prompts", "gone")),
    ),
    "text without a column text": Case(
        RUN,
        ("stage 'init', field data.path", "good.jsonl", "prompt_response data", "text (text)"),
        recipe('name = "init"\nalgorithm = "init"\ndata.path = "good.jsonl"'),
    ),
    "one response to compare": Case(
        RUN,
        ("stage 'votes', field responses", "one response", "num_responses"),
        recipe(SFT, PAIRS + "\nnum_responses = 1", LABEL.replace("stage:sft", "stage:pairs")),
    ),
    "imitating comparisons": Case(
        RUN,
        ("stage 'again', field data.path", "stage:votes", "comparisons, not responses"),
        recipe(
            SFT,
            PAIRS,
            LABEL.replace("stage:sft", "stage:pairs"),
            SFT.replace('"sft"', '"again"', 1).replace("good.jsonl", "stage:votes"),
        ),
    ),
    "judge that is not there": Case(
        RUN,
        ("stage 'evaluate', field judge", "no module 'gone_rewards'"),
        recipe(
            SFT,
            'name = "evaluate"\nalgorithm = "evaluate"\nmodel = "stage:sft"\nbaseline = "chat"\n'
            'data.path = "prompts.jsonl"\njudge = "gone_rewards:gold"',
        ),
    ),
    "--set of no stage": Case([*RUN, "--set", "sftt.seed=1"], ("no stage is called 'sftt'", "'sft'"), recipe(SFT)),
    "--stage that is not there": Case([*RUN, "--stage", "ppo"], ("no stage 'ppo'", "sft"), recipe(SFT)),
    "--stage before its inputs": Case(
        [*RUN, "--stage", "pairs"], ("'pairs'", "stage:sft", "not done"), recipe(SFT, PAIRS)
    ),
}

REWARDS = {
    "nan": Case(ppo(by="bad_rewards:nan"), ("bad_rewards:nan", "gave nan", "prompt 1", "finite number")),
    "none": Case(ppo(by="bad_rewards:none"), ("bad_rewards:none", "gave None", "prompt 1", "finite number")),
    "wrong length": Case(ppo(by="bad_rewards:short"), ("gave 1 rewards for", "one for each")),
    "one number": Case(ppo(by="bad_rewards:scalar"), ("gave a float", "list")),
    "words": Case(ppo(by="bad_rewards:words"), ("gave 'good'", "finite number")),
    "raises": Case(ppo(by="bad_rewards:raises"), ("bad_rewards:raises", "KeyError", "colour")),
    "constant": Case(ppo(by="bad_rewards:constant"), ("self-test", "reward is 1 for each", "nothing to learn")),
    "wants a column": Case(ppo(by="bad_rewards:wants"), ("wants solution", "there are: ")),
    "no such module": Case(ppo(by="gone_rewards:good"), ("no module 'gone_rewards'",)),
    "module that breaks": Case(ppo(by="breaks:good"), ("breaks:good", "ZeroDivisionError")),
    "no such function": Case(ppo(by="bad_rewards:goood"), ("has no 'goood'", "constant, good, nan")),
    "not callable": Case(ppo(by="bad_rewards:CONSTANT"), ("bad_rewards:CONSTANT", "int", "callable")),
    "no function named": Case(ppo(by="bad_rewards:"), ("'bad_rewards:'", "module:function")),
    "reward model without a head": Case(ppo(by="chat"), ("'chat'", "no reward head")),
    "reward model of three labels": Case(ppo(by="three-labels"), ("three-labels", "3 labels", "exactly 1")),
    "reward folder gone": Case(ppo(by="./gone"), ("./gone", "no such folder")),
    "value model from a function": Case(
        ppo("prompts.jsonl", "value.model=reward"), ("value.model", "bad_rewards:good", "valid: 'policy', 'shared'")
    ),
    "judge gone": Case(ppo("prompts.jsonl", "eval_reward=gone_rewards:gold"), ("no module 'gone_rewards'",)),
}

MODELS = {
    "model folder gone": Case(sft(model="./gone"), ("'./gone'", "no such folder")),
    "hub model offline": Case(sft(model="nobody/nothing"), ("nobody/nothing", "no folder here", "hub")),
    "no config.json": Case(sft(model="no-config"), ("no-config", "no config.json")),
    "config.json broken": Case(sft(model="bad-config"), ("bad-config", "JSON")),
    "unknown architecture": Case(sft(model="unknown-type"), ("unknown-type", "martian")),
    "no tokenizer": Case(sft(model="no-tokenizer"), ("no-tokenizer", "no tokenizer", "tokenizer.json")),
    "tokenizer broken": Case(sft(model="bad-tokenizer"), ("bad-tokenizer", "no tokenizer can be read")),
    "no weights": Case(sft(model="no-weights"), ("no-weights", "*.safetensors")),
    "weights cut short": Case(sft(model="cut-short"), ("cut-short", "model.safetensors", "cut short")),
    "tokenizer larger than the embedding": Case(sft(model="small-embedding"), ("300 tokens", "embeds only 290")),
    "a reward model as policy": Case(sft(model="reward"), ("LlamaForSequenceClassification", "causal")),
    "conversations without a chat template": Case(
        sft("chat.jsonl", model="no-template"), ("no-template", "no chat template", "plain text")
    ),
    "no end token": Case(sft(model="no-end"), ("no-end", "no end-of-sequence token", "end_of_turn")),
    "end of turn of many tokens": Case(sft("good.jsonl", "end_of_turn='stop here'"), ("'stop here'", "must be one")),
    "template that is no prefix": Case(
        sft("chat.jsonl", model="not-prefix"), ("not-prefix", "does not keep the prompt as a prefix", "answer:")
    ),
    "template that never closes": Case(
        sft("chat.jsonl", model="never-closes"), ("never-closes", "never closes", "<|end|>", "end_of_turn")
    ),
    "the model's own folder as --out": Case(
        ["sft", "--model", "mine", "--data", "good.jsonl", "--out", "mine"], ("mine",), {"mine/config.json": "{}"}
    ),
}

OTHERS = {
    "show: no run": Case(["show", "gone"], ("gone", "no such run", "runs/")),
    "show: not a run": Case(["show", "d"], ("d: holds no run", "tether run"), {"d/a.txt": ""}),
    "show: nothing finished": Case(
        ["show", "d"], ("d: no stage", "finished yet"), {"d/recipe.json": '{"stages": [{"name": "sft"}]}'}
    ),
    "show: manifest damaged": Case(["show", "d"], ("d/manifest.json",), {"d/manifest.json": '{"name": '}),
    "report: not a run": Case(["report", "d"], ("d: holds no run", "tether run"), {"d/a.txt": ""}),
    "report: recipe damaged": Case(["report", "d"], ("d/recipe.json",), {"d/recipe.json": "{"}),
    "sample: model gone": Case(["sample", "./gone", "hi"], ("'./gone'", "no such folder")),
    "sample: empty prompt": Case(["sample", "no-template", ""], ("prompt", "empty")),
    "sample: prompt over the context": Case(["sample", "chat", "zq" * 60], ("context", "64")),
    "sample: a reward model": Case(["sample", "reward", "hi"], ("reward", "not a causal language model")),
    "chat: model gone": Case(["chat", "./gone"], ("'./gone'", "no such folder")),
}

CASES = {
    f"{table}: {name}": case
    for table, cases in (
        ("data", DATA),
        ("fields", FIELDS),
        ("recipe", RECIPES),
        ("reward", REWARDS),
        ("model", MODELS),
        ("other", OTHERS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_nothing_half_written(name: str, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused_whole(CASES[name], bench, capsys)


def test_the_table_is_long_enough() -> None:
    """The issue asks for forty."""
    assert len(CASES) >= 100


def test_the_bench_is_sound(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a mistake the same commands succeed, so that no case above fails for another reason than its own."""
    for args in (sft(), sft("chat.jsonl"), reward(), ppo(), ppo(by="reward")):
        out = f"out-{args[0]}-{args[4]}-{args[-1]}".replace(":", "-")
        assert main([out if a == "out" else a for a in args]) == 0, capsys.readouterr().err
        assert len(looks_finished(bench / out)) == 2


def test_an_end_of_turn_mends_a_model_that_names_none(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(sft("good.jsonl", "end_of_turn='<|end|>'", model="no-end")) == 0, capsys.readouterr().err
