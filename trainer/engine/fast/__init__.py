"""CPU kernels: the same numbers up to rounding, with fewer copies and all cores at work.

`layers.fast_layers` is the one switch; what fails its probe stays as it is. What each gives:

    layers.py     RMS norms in fp32 with half of the passes over memory; chooses what is replaced
    lora.py       LoRA layers and gated feed-forwards: one bf16 copy of what several layers read, no activation
                  kept, and a young adapter's term that bf16 does not round away
    attention.py  scores in fp32 and the rest in bf16, a block of queries at a time: PyTorch's kernel multiplies
                  in fp32, four times as long; the kept softmax saves a third of attention
    parallel.py   a chat a core, each with a graph of its own (PrefixScorer uses it): 1.0 s a row instead of 1.8

Imports torch and transformers only. Begin with `layers.py`.
"""
