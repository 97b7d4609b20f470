"""The engine against plain forward passes of each model, alone, without padding."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from learning_dynamics import scoring
from learning_dynamics.errors import InputError
from learning_dynamics.scoring import Engine, Tree, attention, trees

V = 97
NEOX = {"vocab_size": V, "initializer_range": 0.2, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
WIDE = {**NEOX, "num_key_value_heads": 2, "pad_token_id": 0}
OLD = {"vocab_size": V, "initializer_range": 0.2, "hidden_size": 32}
PACKED = {
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, initializer_range=0.2, n_embd=32, n_layer=2, n_head=4)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDE, tie_word_embeddings=True)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**WIDE)),
    "phi (bias in the head)": lambda: PhiForCausalLM(PhiConfig(**WIDE)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(vocab_size=V, init_std=0.2, hidden_size=32, ffn_dim=64, num_hidden_layers=2,
                  num_attention_heads=4, word_embed_proj_dim=32)
    ),
    "mistral, window 512": lambda: MistralForCausalLM(MistralConfig(**WIDE, sliding_window=512)),
    "mistral, window 9": lambda: MistralForCausalLM(MistralConfig(**WIDE, sliding_window=9)),
    "gemma3, window 8": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**WIDE, head_dim=8, sliding_window=8)
    ),
}  # fmt: skip
PLAIN = {
    "bloom (ALiBi)": lambda: BloomForCausalLM(BloomConfig(**OLD, n_layer=2, n_head=4)),
    "falcon (ALiBi)": lambda: FalconForCausalLM(
        FalconConfig(**OLD, num_hidden_layers=2, num_attention_heads=4, alibi=True)
    ),
    "gemma2 (soft caps)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**WIDE, head_dim=8, final_logit_softcapping=3.0, query_pre_attn_scalar=8)
    ),
    "cohere (logit scale)": lambda: CohereForCausalLM(
        CohereConfig(**WIDE, bos_token_id=1, eos_token_id=2)
    ),
    "granite (logit scale)": lambda: GraniteForCausalLM(GraniteConfig(**WIDE, logits_scaling=4.0)),
    "gpt-neo (local layers)": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(**OLD, num_layers=2, num_heads=4, window_size=8,
                     attention_types=[[["global", "local"], 1]])
    ),
    "mamba (no attention)": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2)
    ),
}  # fmt: skip
MODELS = {**PACKED, **PLAIN}


def build(name):
    """A model, the same each time; and what its engine logged."""
    torch.manual_seed(0)
    model, said = MODELS[name]().float().eval(), []
    return model, Engine(deepcopy(model), said.append), said


def some_trees(seed=0, count=4, longest=15):
    """Trees of random tokens of unequal lengths, one-token responses and prompts among them."""
    rng = np.random.default_rng(seed)

    def tokens(n):
        return rng.integers(V, size=n).tolist()

    trees = [
        Tree(tokens(rng.integers(2, 12)), [tokens(n) for n in (1, *rng.integers(2, longest, 3))])
        for _ in range(count)
    ]
    long = Tree(tokens(40), [tokens(60), tokens(45)])  # not attended whole
    return [*trees, Tree(tokens(1), [tokens(1)]), Tree(tokens(2), [tokens(1), tokens(4)]), long]


def alone(model, trees):
    """Logits of every response token, from one pass per response without padding: (N, V)."""
    return torch.cat(
        [
            model(torch.tensor([tree.prompt + r])).logits[0, len(tree.prompt) - 1 : -1].float()
            for tree in trees
            for r in tree.responses
        ]
    )


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_plain_passes(name):
    """Sums of log-probs to 2e-6 relative, metrics and logits to fp32's limit, for every model, and
    whether trees are packed is as listed above."""
    model, engine, said = build(name)
    assert engine.shares_prompts == (name in PACKED)
    assert len(said) == (name in PLAIN) and all("every response is scored" in s for s in said)
    trees = some_trees()
    batch = engine.pack(trees)
    with torch.no_grad():
        logits = alone(model, trees)
        scored = engine(batch)
        found = engine(batch, "logits").logits
    truth = scoring.label_logp(logits.double(), batch.target)
    sums, true_sums = (scoring.sum_by_response(x, batch) for x in (scored.logp.double(), truth))
    torch.testing.assert_close(sums, true_sums, rtol=2e-6, atol=4e-6)
    torch.testing.assert_close(found, logits, rtol=2e-5, atol=2e-5)
    norms = scoring.residual_norms(logits, batch.target)
    torch.testing.assert_close(scored.residual_norm, norms, rtol=1e-5, atol=1e-5)
    greedy0 = torch.arange(len(batch.target)) % V
    for known in (None, greedy0):
        ours = engine(batch, "metrics", known).metrics
        for key, value in scoring.token_metrics(logits, batch.target, known).items():
            torch.testing.assert_close(ours[key], value, rtol=2e-5, atol=2e-5, msg=key)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "mamba (no attention)"])
def test_gradients_are_those_of_plain_passes(name):
    """Every parameter's gradient of a weighted sum of log-probs."""
    model, engine, _ = build(name)
    trees = some_trees(1)
    batch = engine.pack(trees)
    factor = torch.linspace(-1, 1, len(batch.target))
    (factor * engine(batch).logp).sum().backward()
    (factor * scoring.label_logp(alone(model, trees), batch.target)).sum().backward()
    for (key, ours), truth in zip(engine.model.named_parameters(), model.parameters(), strict=True):
        if truth.grad is None:
            assert ours.grad is None, key
            continue
        error = (ours.grad - truth.grad).norm() / truth.grad.norm().clamp_min(1.0)
        assert error < 1e-4, key


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt-neox", "llama", "gpt2", "cohere (logit scale)"])
def test_mixed_precision_stays_near_fp32(name, kind):
    """Under autocast log-probs and gradients err as plain passes under autocast do, at most: the
    head's logits are not rounded to 16 bits."""
    model, engine, _ = build(name)
    trees = some_trees(2)
    batch = engine.pack(trees)
    truth = scoring.label_logp(alone(model, trees), batch.target)
    with torch.autocast("cpu", kind):
        ours = engine(batch).logp
        peer = scoring.label_logp(alone(model, trees), batch.target)
        metric = engine(batch, "metrics").metrics["logp"]
    assert ours.dtype == metric.dtype == torch.float32
    errors = [(x - truth).square().mean().sqrt().item() for x in (ours, metric, peer)]
    assert max(errors[:2]) < max(1.2 * errors[2], 1e-3)
    assert errors[0] < 0.08 if kind == torch.bfloat16 else errors[0] < 0.01
    ours.sum().backward()
    truth.sum().backward()
    for one, two in zip(engine.model.parameters(), model.parameters(), strict=True):
        assert (one.grad - two.grad).norm() < 0.1 * two.grad.norm() + 1e-3


def test_windows_are_seen_per_batch():
    """Packed where the longest context fits the window, plain rows where it does not: one token
    more changes it."""
    model, engine, _ = build("mistral, window 9")
    for extra, packed in ((0, True), (1, False)):
        tree = Tree([1, 2, 3, 4], [[5, 6, 7, 8, 9, 10][: 6 + extra] + [11] * extra, [12]])
        assert tree.longest == 9 + extra
        batch = engine.pack([tree])
        assert (batch.layout is not None) == packed
        truth = scoring.label_logp(alone(model, [tree]), batch.target)
        torch.testing.assert_close(engine(batch).logp, truth, rtol=1e-5, atol=1e-5)


def test_a_window_that_the_configuration_hides_is_an_error():
    """What a layer itself says of its window is checked again when it is applied."""
    _, engine, _ = build("mistral, window 9")
    engine.window = None
    with pytest.raises(attention.Unpackable, match="sliding window of 9"):
        engine(engine.pack(some_trees()))


def test_models_that_look_ahead_are_refused():
    """A bidirectional model has no log-probs of a response."""
    model = BertLMHeadModel(BertConfig(**NEOX)).eval()
    with pytest.raises(InputError, match="expected a causal model"):
        Engine(model)


def test_an_engine_leaves_the_model_usable(tmp_path):
    """Greedy generation, padded forward passes and the saved configuration are as before."""
    model, engine, _ = build("llama")
    prompt = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = (prompt != 0).long()
    for call in (
        lambda m: m.generate(prompt, attention_mask=mask, max_new_tokens=5, do_sample=False),
        lambda m: m(prompt, attention_mask=mask).logits[mask.bool()],
    ):
        torch.testing.assert_close(call(engine.model), call(model))
    engine.model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["gpt-neox", "llama"])
def test_checkpointing_gives_the_same_gradients(name):
    """Recomputed layers find the trees again in the backward pass."""
    _, engine, _ = build(name)
    _, other, _ = build(name)
    batch = engine.pack(some_trees(3))
    other.model.gradient_checkpointing_enable({"use_reentrant": False})
    other.model.train()
    for one in (engine, other):
        one(batch).logp.sum().backward()
    for one, two in zip(engine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_the_mathematical_kernel_has_second_derivatives():
    """Under it a Jacobian-vector product equals the product with the gradient."""
    _, engine, _ = build("gpt-neox")
    batch = engine.pack(some_trees(4))
    weights = dict(engine.named_parameters())
    direction = {key: torch.randn_like(value) for key, value in weights.items()}

    def value(parameters):
        logits = torch.func.functional_call(engine, parameters, (batch, "logits")).logits
        return scoring.label_logp(logits, batch.target).sum()

    with sdpa_kernel(SDPBackend.MATH):
        _, forward = torch.func.jvp(value, (weights,), (direction,))
        grads = torch.func.grad(value)(weights)
    product = sum((grads[key] * direction[key]).sum() for key in weights)
    torch.testing.assert_close(forward, product, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("short", [0, 256])
@pytest.mark.parametrize("kind", [None, torch.bfloat16])
def test_both_kernels_agree(monkeypatch, short, kind):
    """The fused one, called per segment or per tree, and the one by masks, values and gradients."""
    monkeypatch.setattr(trees, "SHORT_TREE", short)
    _, engine, _ = build("llama")
    batch = engine.pack(some_trees(5))
    assert bool(batch.layout.whole) == bool(short)
    with torch.autocast("cpu", kind or torch.bfloat16, enabled=kind is not None):
        fused = engine(batch).logp
        with sdpa_kernel(SDPBackend.MATH):
            masked = engine(batch).logp
    error = 1e-5 if kind is None else 0.1
    torch.testing.assert_close(fused, masked, rtol=error, atol=error)
    one, two = (torch.autograd.grad(x.sum(), list(engine.parameters())) for x in (fused, masked))
    for a, b in zip(one, two, strict=True):
        assert (a - b).norm() < (1e-4 if kind is None else 0.05) * b.norm() + 1e-4


@pytest.mark.parametrize("targets", [["query_key_value"], ["query_key_value", "embed_out"]])
def test_adapters_are_scored_with_the_model(targets):
    """A LoRA model, its head adapted or not, gives what its own forward pass gives; gradients reach
    the adapters alone."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = PACKED["gpt-neox"]().eval()
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    names = [head if name == "embed_out" else name for name in targets]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=names, init_lora_weights=False)
    ).eval()
    engine = Engine(adapted)
    assert engine.shares_prompts
    trees = some_trees(6)
    batch = engine.pack(trees)
    truth = scoring.label_logp(alone(adapted, trees), batch.target)
    torch.testing.assert_close(engine(batch).logp, truth, rtol=1e-5, atol=1e-5)
    metrics = engine(batch, "metrics").metrics
    torch.testing.assert_close(metrics["logp"], truth, rtol=1e-5, atol=1e-5)
    engine(batch).logp.sum().backward()
    ours = {k: p.grad.clone() for k, p in adapted.named_parameters() if p.grad is not None}
    assert ours and all("lora" in key for key in ours)
    adapted.zero_grad()
    truth.sum().backward()
    for key, parameter in adapted.named_parameters():
        if key in ours:
            torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-4)
