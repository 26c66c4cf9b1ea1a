"""Model folders go both ways: what one side saves, the other opens, with the same scores within 1e-4.

Checked are folders of the library and of whole runs of the command line (pretraining, fine-tuning, LoRA),
tokenizers in English and Chinese, and adapters of PEFT.

Needs Python with torch, transformers and peft. `cargo test` does not: it reads the folders that

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

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
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


def cli(*args):
    command = ["cargo", "run", "-q", "--", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"handloom {' '.join(map(str, args))}: {done.stderr}")
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


ENGLISH = "The weaver's loom sang; the shuttle ran from hand to hand, day and night. " * 30
CHINESE = "织布的人坐在织机前，梭子从左手跑到右手。天亮了，布也织好了。\n" * 30
PROBES = ["The loom sang", "the weaver's hand, the night", "梭子从左手跑到右手", "Loom 织机 ran 2 times", "天亮了 day",
          " two  spaces", "line\nbreak", "unseen: Ωé😀"]
TINY = ["--num-hidden-layers", 2, "--num-attention-heads", 2, "--hidden-size", 16, "--context-length", 24,
        "--batch-size", 4, "--max-steps", 12, "--eval-steps", 6, "--threads", 1, "--learning-rate", "1e-2"]


def runs(work):
    """Runs of the command line: pretraining, fine-tuning whole and with adapters; opened by transformers and peft."""
    text, labels, tags = work / "text.txt", work / "labels.csv", work / "tags.txt"
    text.write_text(ENGLISH + "\n" + CHINESE)
    labels.write_text("text,label\n" + "".join(
        f"the loom sang {'and ran ' * i},good\n梭子 {'跑 ' * i},bad\n" for i in range(12)))
    tags.write_text("The O\nloom B-THING\n织 B-THING\n机 I-THING\nsang O\n\n" * 12)
    for model, tokenizer in [("gpt", "char"), ("gpt", "bpe:300"), ("bert", "wordpiece:200")]:
        name = f"{model}-{tokenizer.split(':')[0]}"
        base = work / f"run-{name}"
        cli("pretrain", "--model", model, "--tokenizer", tokenizer, "--train", text, "--out", base, *TINY)
        theirs_tokenizer = AutoTokenizer.from_pretrained(base / "best")
        for probe in PROBES:
            here = json.loads(cli("tokenizer", "encode", "--tokenizer", base / "tokenizer.json", "--json", probe))["ids"]
            there = theirs_tokenizer(probe, add_special_tokens=False)["input_ids"]
            if here != there:
                failures.append(f"{name}: {probe!r} is {here} here and {there} there")
        print(f"{'ok':9} the ids of {len(PROBES)} texts by AutoTokenizer: {name}")
        data = batch(vocab=theirs_tokenizer.vocab_size)
        opened = CAUSAL[model].from_pretrained(base / "best")
        compare(f"pretrained here: {name}", ours("lm", base / "best", data), theirs(opened, data), data)
        tasks = [("classify", labels)] + ([("ner", tags)] if model == "bert" else [])
        for task, file in tasks:
            head = AUTO["classify" if task == "classify" else "tag"]
            kind = "classify" if task == "classify" else "tag"
            for lora in [[], ["--lora-r", 4, "--lora-alpha", 16, "--lora-target", "all-linear"]]:
                out = work / f"run-{name}-{task}{'-lora' if lora else ''}"
                cli("finetune", "--from", base, "--task", task, "--train", file, "--out", out, "--max-steps", 8,
                    "--learning-rate", "1e-2", "--threads", 1, *lora)
                best = out / "best"
                opened = head.from_pretrained(best)
                scores = ours(kind, best, data)
                compare(f"fine-tuned here: {name} {task}{' lora' if lora else ''}", scores, theirs(opened, data), data)
                if lora:
                    bare = head.from_pretrained(base / "best", id2label=opened.config.id2label,
                                                label2id=opened.config.label2id,
                                                pad_token_id=opened.config.pad_token_id)
                    adapted = PeftModel.from_pretrained(bare, best / "adapter")
                    compare(f"adapter in peft: {name} {task}", scores, theirs(adapted, data), data)
                    compare(f"adapter here: {name} {task}", ours(kind, best / "adapter", data), scores, data)


def adapters(work, folders):
    """Adapters made by peft on the folders of transformers. Yields (name, task, folder, batch, scores)."""
    for name, base, head, task, how in [
        ("peft-gpt2", "gpt2-untied", AutoModelForCausalLM, "lm",
         dict(task_type="CAUSAL_LM", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
        ("peft-gpt2-classifier", "gpt2-classifier", AutoModelForSequenceClassification, "classify",
         dict(task_type="SEQ_CLS", target_modules=["c_attn", "mlp.c_fc"], fan_in_fan_out=True, use_rslora=True)),
        ("peft-bert-classifier", "bert-classifier", AutoModelForSequenceClassification, "classify",
         dict(task_type="SEQ_CLS", target_modules="all-linear", exclude_modules=["pooler.dense"],
              modules_to_save=["pooler"])),
        ("peft-bert-tagger", "bert-tagger", AutoModelForTokenClassification, "tag",
         dict(task_type="TOKEN_CLS", target_modules=["query", "value"], alpha_pattern={"query": 2})),
    ]:
        model = get_peft_model(head.from_pretrained(folders[base]), LoraConfig(r=3, lora_alpha=12, **how))
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        folder = folders[base].parent / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"../{base}"
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        data = batch(vocab=30, types=base.startswith("bert"))
        yield name, task, folder, data, theirs(model, data)


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
        if "--fast" not in sys.argv:
            runs(work)
        if write:
            shutil.rmtree(FIXTURES, ignore_errors=True)
        made = list(saved_there(work))
        for name, task, folder, data, scores in made + list(adapters(work, {m[0]: m[2] for m in made})):
            compare(f"saved there, opened here: {name} {task}", ours(task, folder, data), scores, data)
            if write and name not in ("gpt2", "bert"):  # their variants cover them
                shutil.copytree(folder, FIXTURES / name, ignore=shutil.ignore_patterns("generation_config.json"))
                expected = {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, "
                                       f"peft {peft.__version__}",
                            "task": task, **data, "shape": list(scores.shape),
                            "logits": [float(f"{x:.6g}") for x in scores.flatten().tolist()]}
                (FIXTURES / name / "expected.json").write_text(json.dumps(expected) + "\n")
    if failures:
        raise SystemExit("\n".join(["failed:", *failures]))


if __name__ == "__main__":
    main()
