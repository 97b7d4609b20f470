"""The sizes of the models that are trained here, known without torch."""

# Architectures, and the width of their MLP in hidden sizes. The gated ones have three matrices
# where GPT-NeoX has two: at 8/3 they hold as many weights.
MLP_WIDTH = {"gpt_neox": 4, "llama": 8 / 3, "qwen2": 8 / 3}


def parameters(spec: dict) -> tuple[int, int]:
    """``(all weights, those of the output layer)`` of a pretraining entry of ``models``.

    The vocabulary is taken as asked for; a tokenizer trained on a small corpus may fall short.
    """
    hidden, head = spec["hidden_size"], spec["vocab_size"] * spec["hidden_size"]
    wide = round(MLP_WIDTH[spec["architecture"]] * hidden)
    if spec["architecture"] == "gpt_neox":  # biases everywhere, two layer norms with bias
        layer = 4 * hidden * hidden + 2 * hidden * wide + 4 * hidden + wide + hidden + 4 * hidden
        return 2 * head + spec["layers"] * layer + 2 * hidden, head
    layer = 4 * hidden * hidden + 3 * hidden * wide + 2 * hidden
    if spec["architecture"] == "qwen2":
        layer += 3 * hidden  # biases of queries, keys and values
    return 2 * head + spec["layers"] * layer + hidden, head
