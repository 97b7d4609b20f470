"""The science of the pipeline: importable, and knows nothing of Snakemake."""
