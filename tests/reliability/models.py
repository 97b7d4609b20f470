"""Hostile models' folders and resume checkpoints."""

import json
from typing import Any

from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors

from tests.reliability.data import FILE_NAMES, other_table
from tests.reliability.formats import Case, Files, parses
from tests.reliability.hostile import PICKLE, as_json, changed, damaged
from tests.reliability.valid import FINETUNE, SCORE, model_of

OWN_CODE = b"open('pwned', 'w').close()\nclass C: pass\n"
TRICKS: list[dict[str, Any]] = [
    {"auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C"}, "model_type": "own"},
    {"auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C"}},
    {"auto_map": {"AutoModelForCausalLM": "a/b--own.C"}},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"attn_implementation": "a/kernel"}, {"_attn_implementation": "flash_attention_2"},
    {"_attn_implementation_internal": "a/kernel"}, {"model_type": "../own"},
    {"architectures": ["GPT2LMHeadModel"]}, {"architectures": ["../own"]},
    {"num_hidden_layers": 10**7}, {"vocab_size": 10**9}, {"hidden_size": 10**6},
    {"vocab_size": 10}, {"max_position_embeddings": 10**9}, {"eos_token_id": 10**6},
    {"model_type": "gpt2"}, {"model_type": "llama"}, {"model_type": "t5"}, {"dtype": "own"},
    {"torch_dtype": "float8"}, {"tie_word_embeddings": True}, {"is_encoder_decoder": True},
    {"num_attention_heads": 0}, {"num_attention_heads": 3}, {"hidden_act": "own.C"},
    {"rope_scaling": {"type": "x"}}, {"tokenizer_class": "own.C"}, {"id2label": "x"},
    {"transformers_weights": "../../outside/x"}, {"custom_generate": "own"},
]  # fmt: skip


@st.composite
def model_folders(draw: Any, files: Files) -> Case:
    """A model's folder: weights, config and tokenizer, and files that would run code."""
    known, parsed = model_of(files), True
    pieces = sorted(known)
    how = draw(st.sampled_from(["trick", "tree", "tree", "bytes", "pickle", "swap", "index"]))
    text = draw(st.sampled_from([p for p in pieces if p.endswith(".json")]))
    if how == "trick":
        known["model/own.py"] = OWN_CODE
        place = draw(st.sampled_from(["model/config.json", "model/config.json", text]))
        known[place] = as_json(json.loads(known[place]) | draw(st.sampled_from(TRICKS)))
    elif how == "tree":
        known[text] = as_json(draw(changed(json.loads(known[text]))))
    elif how == "bytes":
        place = draw(st.sampled_from(pieces))
        known[place] = draw(damaged(known[place]))
        parsed = parses(place, known[place])
    elif how == "pickle":
        del known[draw(st.sampled_from(["model/model.safetensors", text]))]
        for name in ("pytorch_model.bin", "adapter_model.bin", "model.bin", "optimizer.pt",
                     "training_args.bin", "tokenizer.model", "vocab.pkl"):  # fmt: skip
            known[f"model/{name}"] = PICKLE
        if draw(st.booleans()):
            known["model/model.safetensors"] = PICKLE
            parsed = False
        if draw(st.booleans()):
            where = draw(st.sampled_from([".", "../outside", "a/b", "model"]))
            adapter = {"peft_type": "LORA", "base_model_name_or_path": where, "r": 2}
            known["model/adapter_config.json"] = as_json(adapter)
    elif how == "swap":
        one, other = draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces))
        known[one], known[other] = known[other], known[one]
        parsed = parses(one, known[one]) and parses(other, known[other])
    else:
        weights = known.pop("model/model.safetensors")
        place = draw(st.sampled_from(["a.safetensors", "../model/a.safetensors", *FILE_NAMES]))
        if "/" not in place:
            known[f"model/{place}"] = weights
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_tensors(weights), place)}
        known["model/model.safetensors.index.json"] = as_json(draw(changed(index, 2)))
    known["pairs.parquet"] = files["pairs.parquet"]
    return Case(known, [SCORE], parsed)


@st.composite
def checkpoints(draw: Any, files: Files) -> Case:
    """A killed run's resume checkpoint, damaged before it goes on."""
    known = {n: c for n, c in files.items() if n.endswith(".parquet") or n.startswith("out/")}
    known |= model_of(files)
    pieces = sorted(name for name in known if name.startswith("out/"))
    place = draw(st.sampled_from(pieces))
    how = draw(st.sampled_from(["tree", "bytes", "bytes", "table", "gone", "swap", "extra"]))
    parsed = True
    state = next(name for name in pieces if name.endswith("state.json"))
    if how == "tree":
        known[state] = as_json(draw(changed(json.loads(known[state]))))
    elif how == "bytes":
        known[place] = draw(damaged(known[place]))
        parsed = parses(place, known[place])
    elif how == "table":
        place = draw(st.sampled_from([p for p in pieces if p.endswith(".parquet")]))
        known[place] = other_table(draw, known[place])
    elif how == "gone":
        del known[place]
    elif how == "swap":
        other = draw(st.sampled_from(pieces))
        known[place], known[other] = known[other], known[place]
        parsed = parses(place, known[place]) and parses(other, known[other])
    else:
        folder = state.rpartition("/")[0]
        top = folder.rpartition("/")[0]
        extra = draw(st.sampled_from(["update-99999999/", "update-x/", "update-99999999",
                                      "update-99999999/state.json", "epoch1/", "x"]))  # fmt: skip
        known[f"{top}/{extra}"] = draw(st.sampled_from([b"", b"{}", b"[]", b"null", PICKLE]))
    return Case(known, [FINETUNE], parsed)
