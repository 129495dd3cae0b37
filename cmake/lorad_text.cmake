# The tokenizers shim (Rust) and sentencepiece are built by scripts/setup into the cache.
