"""Model folders go both ways: what one side saves, the other opens, with the same scores within 1e-4.

Needs Python with torch and transformers. `cargo test` does not: it reads the folders that

    python tests/interchange.py --write-fixtures

has left in tests/fixtures/interchange, each with the scores that transformers or torch gave (expected.json).
Without the flag the script checks both ways and writes nothing.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
    GPT2Model,
)

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "interchange"
TOLERANCE = 1e-4
CAUSAL = {"gpt": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}
AUTO = {"classify": AutoModelForSequenceClassification, "tag": AutoModelForTokenClassification}
failures = []


def handloom(*args):
    command = ["cargo", "run", "-q", "--example", "interchange", "--", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, args))}: {done.stderr}")
    return done.stdout


def batch(vocab=50, rows=((7, 2), (4, 3), (1, 4)), types=False):
    """Rows of several lengths, filled up with 0; no 0 inside, for GPT-2 looks for it."""
    width = max(n for n, _ in rows)
    ids = [[1 + (seed * 31 + at * 17) % (vocab - 1) if at < n else 0 for at in range(width)] for n, seed in rows]
    padding = [[int(at >= n) for at in range(width)] for n, _ in rows]
    token_types = [[int(at > 2) for at in range(width)] for _ in rows] if types else None
    return {"ids": ids, "padding": padding, "token_types": token_types}


def ours(task, folder, data):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data, file)
        file.flush()
        out = json.loads(handloom("run", task, folder, file.name))
    return torch.tensor(out["values"], dtype=torch.float64).reshape(out["shape"])


@torch.no_grad()
def theirs(model, data):
    model.eval()
    arguments = {"input_ids": torch.tensor(data["ids"]), "attention_mask": 1 - torch.tensor(data["padding"])}
    if data["token_types"] is not None:
        arguments["token_type_ids"] = torch.tensor(data["token_types"])
    return model(**arguments).logits.double()


def compare(name, a, b, data):
    if a.shape != b.shape:
        failures.append(f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
        return
    if a.dim() == 3:  # scores at padding mean nothing
        keep = torch.tensor(data["padding"]) == 0
        a, b = a[keep], b[keep]
    difference, size = (a - b).abs().max().item(), b.abs().max().item()
    verdict = "ok" if difference <= TOLERANCE else "DIFFERENT"
    print(f"{verdict:9} {name:44} scores up to {size:6.2f}, largest difference {difference:.1e}")
    if difference > TOLERANCE:
        failures.append(name)


def shake(model, spread=0.2):
    """First weights of 0 and 1 hide mistakes."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def gpt2_config(**more):
    return GPT2Config(vocab_size=30, n_positions=12, n_embd=8, n_layer=2, n_head=2, bos_token_id=None,
                      eos_token_id=None, pad_token_id=0, **more)


def bert_config(**more):
    return BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=12, max_position_embeddings=12, **more)


class WordLanguageModel(nn.Module):
    """PyTorch's word language model example, without the weights' first values."""

    def __init__(self, kind, layers=2, vocab=50, width=16, tied=True):
        super().__init__()
        self.encoder = nn.Embedding(vocab, width)
        self.rnn = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind](width, width, layers, batch_first=True)
        self.decoder = nn.Linear(width, vocab)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, input_ids, attention_mask):
        logits = self.decoder(self.rnn(self.encoder(input_ids))[0])
        return type("Output", (), {"logits": logits})


def saved_here(work):
    """Folders written by handloom, opened by transformers and torch."""
    for model in ["gpt", "bert"]:
        for task in ["lm", "classify", "tag"]:
            folder = work / f"here-{model}-{task}"
            handloom("save", model, task, folder)
            auto = CAUSAL[model] if task == "lm" else AUTO[task]
            opened, report = auto.from_pretrained(folder, output_loading_info=True)
            left = [key for key in report["missing_keys"] if "lm_head" not in key and "decoder" not in key]
            if left:
                failures.append(f"{model} {task}: transformers misses {left}")
            data = batch(types=model == "bert")
            compare(f"saved here, opened there: {model} {task}", ours(task, folder, data), theirs(opened, data), data)
            if task != "lm" and opened.config.id2label != {0: "red", 1: "green", 2: "blue"}:
                failures.append(f"{model} {task}: labels {opened.config.id2label}")
    for kind in ["rnn", "lstm", "gru"]:
        folder = work / f"here-{kind}"
        handloom("save", kind, "lm", folder)
        opened = WordLanguageModel(kind)
        report = opened.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        if report.missing_keys != ["decoder.weight"] or report.unexpected_keys:
            failures.append(f"{kind}: {report}")
        data = batch()
        compare(f"saved here, opened there: {kind} lm", ours("lm", folder, data), theirs(opened, data), data)


def rename(folder, change):
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def saved_there(work):
    """Folders written by transformers and torch, opened by handloom. Yields (name, task, folder, batch, scores)."""
    labels = {"id2label": {0: "no", 1: "yes", 2: "也许"}, "label2id": {"no": 0, "yes": 1, "也许": 2}}

    def made(name, task, model, data, **how):
        folder = work / name
        shake(model).save_pretrained(folder, **how)
        return name, task, folder, data, theirs(model, data)

    yield made("gpt2", "lm", AutoModelForCausalLM.from_config(gpt2_config()), batch(vocab=30))
    yield made("gpt2-sharded", "lm", AutoModelForCausalLM.from_config(gpt2_config()), batch(vocab=30), max_shard_size="3KB")
    yield made("gpt2-untied", "lm", AutoModelForCausalLM.from_config(
        gpt2_config(tie_word_embeddings=False, n_inner=20, activation_function="relu")), batch(vocab=30))
    yield made("gpt2-classifier", "classify", AutoModelForSequenceClassification.from_config(gpt2_config(**labels)), batch(vocab=30))

    name, task, folder, data, scores = made("gpt2-bare", "lm", AutoModelForCausalLM.from_config(gpt2_config()), batch(vocab=30))
    bare = GPT2Model.from_pretrained(folder)
    bare.save_pretrained(folder)
    yield name, task, folder, data, scores

    typed = batch(vocab=30, types=True)
    yield made("bert", "lm", AutoModelForMaskedLM.from_config(bert_config()), typed)
    name, task, folder, data, scores = made("bert-gamma-beta", "lm", AutoModelForMaskedLM.from_config(bert_config()), typed)
    rename(folder, lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
    yield name, task, folder, data, scores
    yield made("bert-classifier", "classify", AutoModelForSequenceClassification.from_config(bert_config(**labels)), typed)
    yield made("bert-tagger", "tag", AutoModelForTokenClassification.from_config(bert_config(**labels)), typed)

    for kind in ["rnn", "lstm", "gru"]:
        model = shake(WordLanguageModel(kind, vocab=30, width=8, tied=kind != "gru"), 0.1)
        folder = work / f"torch-{kind}"
        folder.mkdir(parents=True)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": kind, "vocab_size": 30, "embedding_size": 8, "hidden_size": 8, "num_layers": 2,
                  "tie_word_embeddings": kind != "gru"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        yield f"torch-{kind}", "lm", folder, batch(vocab=30), theirs(model, batch(vocab=30))


def main():
    write = "--write-fixtures" in sys.argv
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        saved_here(work)
        if write:
            shutil.rmtree(FIXTURES, ignore_errors=True)
        for name, task, folder, data, scores in saved_there(work):
            compare(f"saved there, opened here: {name} {task}", ours(task, folder, data), scores, data)
            if write and name not in ("gpt2", "bert"):  # their variants cover them
                shutil.copytree(folder, FIXTURES / name, ignore=shutil.ignore_patterns("generation_config.json"))
                expected = {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
                            "task": task, **data, "shape": list(scores.shape),
                            "logits": [float(f"{x:.6g}") for x in scores.flatten().tolist()]}
                (FIXTURES / name / "expected.json").write_text(json.dumps(expected) + "\n")
    if failures:
        raise SystemExit("\n".join(["failed:", *failures]))


if __name__ == "__main__":
    main()
