"""The schema of influence.parquet, which windows of a run leave behind (docs/architecture.md).
Apart from what scores it, so that an edit of the scores retrains nothing. Torch-free."""

import pyarrow as pa

PARTS = ["through_chosen", "through_rejected", "rest"]
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),  # updates done when the window begins
        ("updates", pa.int32()),  # L, of the window
        ("factor", pa.float64()),  # that multiplies the step; 1 but where updates is 1
        ("lr", pa.float64()),  # of the window's first update
        ("example_id", pa.string()),
        ("response_type", pa.string()),
        ("n_tokens", pa.int32()),
        *[
            (name, pa.float64())  # nats; overlap and hidden without a unit
            for name in ("measured", "steps", "start", *PARTS, "overlap", "hidden")
        ],
    ]
)
COLUMNS = SCHEMA.names
