"""The paper's warm-up on images of digits (Sec. 2, App. C.1): where one update, or many, move the
predictions on other images, and how the kernel between two images changes along training.

Networks of some ten thousand parameters, so that the kernel is computed directly. Everything runs
on CPU, in fp32.
"""

CLASSES = 10
NETWORKS = ("mlp", "lenet")
EMBEDDED_ROWS = 1797  # images that scikit-learn ships
TRAINING_COLUMNS = ["epoch", "updates", "lr", "train_loss", "moved", "test_loss", "test_accuracy"]
PREDICTION_COLUMNS = ["epoch", "split", "true_class", "class", "probability", "images"]
STEP_COLUMNS = ["update_id", "update_class", "split", "observed_id", "observed_class", "class",
                "logp_before", "logp_after", "predicted"]  # fmt: skip
ENTK_COLUMNS = ["epoch", "update_class", "observed_class", "norm", "change"]
