"""What a job will take: time, memory, GPUs and disk, from the study's configuration alone.

The rules ask a scheduler for it (with a margin and ``attempt``); ``learning_dynamics.plan`` adds it
up. Time is floating-point operations over an assumed throughput, plus a constant per update,
batch and start; the assumptions are :data:`RATES` and what stands beside it (docs/cluster.md).
Nothing here imports torch.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from learning_dynamics.architecture import parameters
from learning_dynamics.study import Study

# Floating-point operations per second: of one CPU core, measured on the toy study (two shared cores
# with AVX-512); of one GPU, 40% of an A100's peak (data sheet, not measured).
RATES = {
    ("cpu", "fp32"): 3.0e10, ("cpu", "bf16"): 4.0e10,
    ("cuda", "fp32"): 0.4 * 1.95e13,
    ("cuda", "bf16"): 0.4 * 3.12e14, ("cuda", "fp16"): 0.4 * 3.12e14,
}  # fmt: skip
START = {"cpu": 3.0, "cuda": 30.0}  # seconds before the first update: imports, reading, loading
TOKENIZER = 6.0  # seconds of training one and of encoding a corpus of a million tokens
ELEMENTS = 1.0e9  # numbers that a CPU core goes over per second outside products
PER_LAYER = 2.0e-3  # seconds of one layer's forward and backward pass beside its products
HOST_MB = {"cpu": 500, "cuda": 3000}  # libraries, tables, and the context of CUDA
ON_CPU = ["fetch_model", "pretrain_model", "learn_digits", "track_entk"]  # on every device
GPU_MB = 1000  # the context of CUDA and torch's workspaces
SLOTS = {"rmsprop": 1, "adamw": 2, "sgd": 0}  # numbers that an optimiser keeps per weight
# Of a hub model whose sizes are not in the configuration: vocabulary, layers and hidden size.
HUB = {"vocab_size": 152_000, "layers": 24, "hidden_size": 2048}
# A typical text's share of what its limit leaves room for, as HH's under the paper's limits.
PROMPT_SHARE, RESPONSE_SHARE = 0.47, 0.24
FILE_ROWS = 500  # rows of a local file that was not read yet: the published ones'


@dataclass(frozen=True)
class Cost:
    """What one job takes.

    Attributes:
        seconds: wall time, of one undisturbed attempt.
        memory_mb: host memory at its peak, all processes together.
        gpu_memory_mb: memory of each of its GPUs at its peak; 0 without.
        disk_mb: what it leaves behind.
        gpus, threads: what it holds meanwhile.
    """

    seconds: float
    memory_mb: float
    gpu_memory_mb: float = 0.0
    disk_mb: float = 0.0
    gpus: int = 0
    threads: int = 1


@dataclass(frozen=True)
class _Texts:
    """Mean tokens of a prompt and of a response, and training rows of a data set."""

    prompt: float
    response: float
    rows: int


class Costs:
    """The costs of a study's jobs, by kind: a method each, named after its rule.

    Args:
        study: the study.
        facts: of data sets that are built already, ``{name: (mean characters of a prompt, of a
            response, training rows)}``; without them what the configuration says is assumed.
    """

    CHARACTERS = 4.0  # of a token

    def __init__(self, study: Study, facts: dict[str, tuple[float, float, int]] | None = None):  # noqa: ANN204
        self._study, self._facts = study, facts or {}
        self._compute = study.config["compute"]
        self._device = self._compute["device"]
        self._known: dict[tuple, Cost] = {}

    def gpus(self, kind: str) -> int:
        """The GPUs that a job of this kind holds."""
        endpoint = self._study.config["judge"]["provider"] != "transformers"
        if self._device != "cuda" or kind in ON_CPU or (kind == "judge_answers" and endpoint):
            return 0
        return self._compute["processes"] if kind == "finetune" else 1

    def of(self, kind: str, names: Mapping[str, str]) -> Cost:
        """The cost of a job, from its kind (the name of one of the methods below) and the wildcards
        of its rule; ``home``, a base model's folder, stands for its model."""
        method = getattr(type(self), kind)
        wanted = inspect.signature(method).parameters
        known = {name: names[name] for name in wanted if name in names.keys()}  # noqa: SIM118
        if "model" in wanted and "model" not in known:
            known["model"] = self._study.model_of_home(names["home"])[0]
        key = kind, *known.values()
        if key not in self._known:
            self._known[key] = method(self, **known)
        return self._known[key]

    # -- jobs ----------------------------------------------------------------------------------

    def finetune(self, dataset: str, model: str, run: str) -> Cost:
        """A run, with all its probe evaluations."""
        spec, texts = self._study.runs[run], self._texts(dataset, model)
        sides = len(self._study.algorithm(run).responses)
        rows = self._rows(run, texts)
        updates = max(1, math.floor(spec["epochs"] * rows / spec["batch_size"]))
        evaluations = 1 + math.ceil(updates / spec["probe_every"])
        row = texts.prompt, sides * texts.response
        one_batch = self._work(model, *row) * spec["batch_size"]
        work = 3 * updates * one_batch * (4 / 3 if spec["checkpointing"] else 1)
        work += evaluations * self._probing(model, texts)
        if spec["proxies"]:  # the same responses before and after an update
            tree = self._work(model, texts.prompt, self._types() * texts.response)
            work += 2 * evaluations * spec["proxies"]["examples"] * tree
        if spec["influence"]:
            tree = self._work(model, texts.prompt, self._types() * texts.response)
            work += self._following(spec, updates, sides, tree, one_batch)
        if spec["rows"] in ("self-play", "on-policy"):
            period = spec["regenerate_every"] or rows / spec["batch_size"]
            writings = math.ceil(updates / period) * rows * (1 + (spec["rows"] == "on-policy"))
            work += writings * self._writing(model, texts, self._study.config["probe"])
        passes = updates * spec["accumulate"] + evaluations * self._batches(texts) / 3
        processes = self._compute["processes"]
        kept = 1 + len(self._study.checkpoints(run))
        weights = self._weights_mb(model)
        slots = SLOTS[spec["optimizer"]] * (0.02 if spec["lora"] else 1)
        tokens = spec["batch_size"] / spec["accumulate"] / processes * sum(row)
        used = weights * (2 + slots) + self._activations_mb(
            model, tokens, tokens, spec["checkpointing"]
        )
        if spec["rows"] == "on-policy":
            used += weights  # what the responses are judged beside
        used = max(used, weights * (1 + slots) + self._probing_mb(model))
        if spec["proxies"]:
            tree = self._types() * texts.response * spec["proxies"]["examples"]
            used += tree * self._sizes(model)["vocab_size"] * 16 / 1e6
        if spec["influence"]:  # weights, optimiser and step, kept, and the step's parts, twice each
            used += weights * (4 + 2 * sides + slots)
        # A checkpoint is written from one copy of weights and optimiser on the host.
        saved = weights * (1 + slots)
        disk = kept * weights + evaluations * self._probed() * 150 / 1e6
        if spec["tokens"]:  # two log-probs per token, 4 bytes each in memory, 2 on the disk
            numbers = 2 * evaluations * texts.response * self._types()
            numbers *= spec["tokens"]["examples"] or self._probed() / self._types()
            disk += 2 * numbers / 1e6
            used += 4 * numbers / 1e6 if self._device == "cpu" else 0
        return replace(
            self._cost(model, work / processes, passes, used, saved, processes), disk_mb=disk
        )

    @staticmethod
    def _following(spec: dict, updates: int, sides: int, tree: float, batch: float) -> float:
        """Operations of the windows of a run with ``influence``; ``tree`` and ``batch`` are those
        of scoring a probed prompt with its responses and the rows of an update."""
        wanted = spec["influence"]
        longest = max([1, *wanted["updates"]])
        windows = max(0, updates - spec["warmup"] - longest) // wanted["every"] + 1
        passes = 2 * (2 + sides) + len(wanted["factors"])  # of the one step: whole, parts, scaled
        passes += 2 * longest + 3 * len(wanted["updates"]) + 2  # of the window
        steps = 3 * (1 + sides) + 2 * longest  # passes over rows
        return windows * (passes * wanted["examples"] * tree + steps * batch)

    def pretrain_model(self, model: str) -> Cost:
        """A base model that is trained here, on the CPU."""
        spec = self._study.models[model]
        total, head = parameters(spec)
        tokens = spec["batch_size"] * spec["sequence_length"]
        # The embedding is looked up, not multiplied.
        work = 6 * spec["updates"] * tokens * (total - head)
        # Beside the products: softmaxes of attention and of the vocabulary, norms, activations.
        rows = spec["heads"] * spec["sequence_length"] * 6 + spec["hidden_size"] * 30
        elements = spec["updates"] * tokens * (6 * spec["vocab_size"] + spec["layers"] * rows)
        speed = spec["threads"]
        seconds = START["cpu"] + TOKENIZER + spec["updates"] * spec["layers"] * PER_LAYER
        seconds += (work / RATES["cpu", "fp32"] + elements / ELEMENTS) / speed
        logits = 3 * 4 * tokens * spec["vocab_size"] / 1e6
        memory = HOST_MB["cpu"] + 4 * 4 * total / 1e6 + logits + 120
        return Cost(seconds, memory, disk_mb=4 * total / 1e6, threads=spec["threads"])

    def fetch_model(self, model: str) -> Cost:
        """A download: half-precision or full weights, as they come."""
        return Cost(0, 500, disk_mb=self._weights_mb(model))

    def score_reference(self, dataset: str, model: str) -> Cost:
        """Log-probs of the training pairs."""
        texts = self._texts(dataset, model)
        work = texts.rows * self._work(model, texts.prompt, 2 * texts.response)
        tokens = texts.rows * (texts.prompt + 2 * texts.response)
        return self._scoring(model, work, tokens)

    def sample_probes(self, dataset: str, model: str) -> Cost:
        """Two response types, written by the base model."""
        texts, probe = self._texts(dataset, model), self._study.config["probe"]
        count = 2 * (probe["train"] + probe["test"])
        work = count * self._writing(model, texts, probe)
        return self._scoring(model, work, 0, steps=2 * probe["sample_tokens"])

    def generate_answers(self, dataset: str, model: str) -> Cost:
        """Answers to held-out and training prompts."""
        texts, answers = self._texts(dataset, model), self._study.config["answers"]
        spec = self._study.datasets[dataset]
        test = answers["test"] if answers["test"] is not None else spec.get("test_rows", texts.rows)
        count = answers["train"] + test
        asked = {"sample_tokens": answers["max_tokens"]}
        work = count * self._writing(model, texts, asked)
        batches = max(1, count * self._limit(model) / self._study.config["probe"]["batch_tokens"])
        return self._scoring(model, work, 0, steps=answers["max_tokens"] * batches)

    def rephrase_probes_with_a_model(self, dataset: str) -> Cost:
        """Response types, written by a model of the study."""
        rephrase = self._study.datasets[dataset]["rephrase"]
        cost = self.sample_probes(dataset, rephrase["model"])
        return replace(cost, seconds=2.5 * cost.seconds)  # five types instead of two

    def judge_answers(self) -> Cost:
        """Verdicts of a model of the study; an endpoint's cost nothing here."""
        judge, spec = self._study.config["judge"], self._study.config["figures"]["winrate"]
        if judge["provider"] != "transformers":
            return Cost(0, HOST_MB["cpu"])
        pairs = len(spec["comparisons"]) * len(spec["epochs"]) * len(self._study.seeds)
        one = self.generate_answers(spec["dataset"], judge["model"])
        return replace(one, seconds=2 * pairs * one.seconds)

    def measure_one_step(self, dataset: str, model: str, figure: str = "squeeze") -> Cost:
        """Single updates of three kinds, each from the same weights."""
        texts, spec = (
            self._texts(dataset, model),
            self._study.config["figures"][figure]["one_step"],
        )
        row = self._work(model, texts.prompt, 2 * texts.response) * spec["batch_size"]
        count = 3 * spec["batches"]
        tokens = count * spec["batch_size"] * (texts.prompt + 2 * texts.response)
        cost = self._scoring(model, 5 * count * row, 5 * tokens, steps=3 * count)
        return replace(cost, memory_mb=cost.memory_mb + 2 * self._weights_mb(model))

    def measure_mass(self, dataset: str, model: str) -> Cost:
        """The same updates, and some passes over log-probs of y⁻'s tokens × logits in fp64."""
        cost = self.measure_one_step(dataset, model, "mass")
        spec = self._study.config["figures"]["mass"]["one_step"]
        tokens = spec["batch_size"] * self._texts(dataset, model).response
        numbers = tokens * self._sizes(model)["vocab_size"]
        seconds = 3 * spec["batches"] * 60 * numbers / ELEMENTS  # Newton's steps, squares
        used = 12 * 8 * numbers / 1e6
        if cost.gpus:
            return replace(cost, gpu_memory_mb=cost.gpu_memory_mb + used)
        return replace(cost, seconds=cost.seconds + seconds, memory_mb=cost.memory_mb + used)

    def measure_kernel(self, dataset: str, model: str) -> Cost:
        """The exact kernel of a tiny model: a gradient per position and token of the vocabulary."""
        kernel = self._study.kernel()
        sizes = self._sizes(model)
        trees = kernel["examples"] * self._types()
        rows = trees * kernel["tokens"] * sizes["vocab_size"]  # of the Jacobian, made in blocks
        seconds = START["cpu"] + 4.0e-9 * rows * self._parameters(model)[0]
        memory, gpus = HOST_MB[self._device] + 300, self.gpus("measure_kernel")
        return Cost(seconds, memory, gpus * memory, 0, gpus, self._compute["threads"])

    def measure_mutual(self, dataset: str, model: str) -> Cost:
        """Gradients of some prompts' responses, once per block of them that is in memory; and two
        passes over all of them per response, with some more to find a step."""
        spec, texts = self._study.config["figures"]["kernel"], self._texts(dataset, model)
        count = spec["examples"] * self._types()
        needed = 8 * count * self._parameters(model)[0] / 1e6
        passes = count * (2 + math.ceil(needed / spec["gradients_mb"]))
        tree = texts.response * self._types()
        work = 3 * passes * self._work(model, texts.prompt, texts.response)
        work += 2.5 * count * spec["examples"] * self._work(model, texts.prompt, tree)
        held = min(needed, spec["gradients_mb"]) + 3 * self._weights_mb(model)
        held += 3 * 8 * tree * self._sizes(model)["vocab_size"] / 1e6
        used = held + self._activations_mb(model, texts.prompt + texts.response, texts.response)
        trees = 2.5 * count * spec["examples"]
        return self._cost(model, work, passes + trees / 3, used, 0)

    def learn_digits(self, network: str) -> Cost:
        """A short training on images, on the CPU."""
        digits = self._study.config["digits"]
        updates = digits["epochs"] * digits["train_rows"] / digits["batch_size"]
        return Cost(START["cpu"] + updates * (2e-3 if network == "mlp" else 4e-3), HOST_MB["cpu"])

    def track_entk(self, network: str) -> Cost:
        """A long training on images and its kernels, on the CPU."""
        digits = self._study.config["digits"]
        spec, epochs = digits["entk"], digits["entk"]["epochs"][network]
        kernels = min(epochs, spec["dense"]) + 2 * max(0, epochs - spec["dense"]) / spec["every"]
        updates = epochs * digits["train_rows"] / digits["batch_size"]
        step, kernel = (2e-3, 0.15) if network == "mlp" else (4e-3, 1.2)
        return Cost(START["cpu"] + updates * step + kernels * kernel, HOST_MB["cpu"] + 200)

    # -- parts ---------------------------------------------------------------------------------

    def _cost(
        self, model: str, work: float, passes: float, used: float, host: float, processes: int = 1
    ) -> Cost:
        """A model job's cost: operations, forward and backward passes, MB of weights, activations
        and optimiser where it computes, and MB that the host holds beside them."""
        threads = self._compute["threads"]
        cuda = self._device == "cuda"
        speed = RATES[self._device, self._compute["precision"]] * (1 if cuda else threads)
        layer = PER_LAYER / (4 if cuda else 1)
        seconds = START[self._device] + work / speed + passes * self._sizes(model)["layers"] * layer
        share = processes if self._compute["sharding"] == "fsdp" else 1
        if cuda:
            # While loading, the host holds the weights and what was read of the file.
            memory = HOST_MB["cuda"] + max(2 * self._weights_mb(model), host)
            return Cost(
                seconds,
                memory * processes,
                GPU_MB + used / share,
                0,
                processes,
                threads * processes,
            )
        memory = (HOST_MB["cpu"] + host + used / share) * processes
        return Cost(seconds, memory, threads=threads * processes)

    def _scoring(self, model: str, work: float, tokens: float, steps: float = 0) -> Cost:
        """A job that only reads a model."""
        batches = tokens / self._study.config["probe"]["batch_tokens"] + steps
        used = self._weights_mb(model) + self._probing_mb(model)
        return self._cost(model, work, batches / 3, used, 0)

    def _texts(self, dataset: str, model: str) -> _Texts:
        spec, limits = self._study.datasets[dataset], self._study.models[model]
        most = limits["max_prompt_length"] or limits["max_length"] / 2
        room = limits["max_length"] - most
        rows = spec.get("train_rows") or round(
            FILE_ROWS * (1 - spec["pretrain_share"]) * (1 - spec["test_share"])
        )
        if dataset in self._facts:
            prompt, response, rows = self._facts[dataset]
            return _Texts(
                min(prompt / self.CHARACTERS, most), min(response / self.CHARACTERS, room), rows
            )
        return _Texts(PROMPT_SHARE * most, RESPONSE_SHARE * room, rows)

    def _rows(self, run: str, texts: _Texts) -> int:
        spec = self._study.runs[run]
        if spec["rows"] == "probes":
            return self._study.config["probe"]["train"]
        return texts.rows * (2 if spec.get("target") in ("extend", "irrelevant") else 1)

    def _types(self) -> int:
        return len(self._study.config["probe"]["types"])

    def _probed(self) -> int:
        """Responses of one probe evaluation."""
        probe = self._study.config["probe"]
        return (probe["train"] + probe["test"]) * self._types()

    def _probing(self, model: str, texts: _Texts) -> float:
        tree = self._work(model, texts.prompt, self._types() * texts.response)
        return tree * self._probed() / self._types()

    def _batches(self, texts: _Texts) -> float:
        tree = texts.prompt + self._types() * texts.response
        most = self._study.config["probe"]["batch_tokens"]
        return max(1, tree * self._probed() / self._types() / most)

    def _work(self, model: str, prompt: float, response: float) -> float:
        """Operations of a forward pass: layers at all tokens, the output layer at a response's."""
        total, head = self._parameters(model)
        return 2 * ((prompt + response) * (total - 2 * head) + response * head)

    def _writing(self, model: str, texts: _Texts, asked: dict) -> float:
        """Operations of writing one response, token by token."""
        return 2 * self._work(model, texts.prompt, asked["sample_tokens"])

    def _parameters(self, model: str) -> tuple[float, float]:
        spec = self._study.models[model]
        if spec["source"] == "pretrain":
            return parameters(spec)
        # Input and output layer are a tenth of a model of a billion weights each.
        return spec["parameters"], 0.1 * spec["parameters"]

    def _sizes(self, model: str) -> dict:
        spec = self._study.models[model]
        return spec if spec["source"] == "pretrain" else HUB

    def _limit(self, model: str) -> int:
        return self._study.models[model]["max_length"]

    def _weights_mb(self, model: str) -> float:
        return 4 * self._parameters(model)[0] / 1e6

    def _activations_mb(
        self, model: str, tokens: float, scored: float, checkpointing: bool = False
    ) -> float:
        """Kept for the backward pass: about 16 vectors of hidden size per layer and token, and two
        buffers of logits."""
        sizes = self._sizes(model)
        width = 2 if self._compute["precision"] != "fp32" else 4
        vectors = sizes["layers"] * (2 if checkpointing else 16)
        logits = 2 * 4 * scored * sizes["vocab_size"]
        return (width * tokens * sizes["hidden_size"] * vectors + logits) / 1e6

    def _probing_mb(self, model: str) -> float:
        """A batch of the scoring engine: a layer's activations and a block of the vocabulary."""
        sizes, tokens = self._sizes(model), self._study.config["probe"]["batch_tokens"]
        return 4 * tokens * (20 * sizes["hidden_size"] + 2 * 2048) / 1e6
