"""CPU kernels: the same numbers up to rounding, with fewer copies and all cores at work.

`layers.fast_layers` is the one switch; a layer that fails its probe stays as it is. What each kernel gives:

    layers.py     RMS norms in fp32 with half of the passes over memory; decides what is replaced
    lora.py       LoRA layers and gated feed-forwards: one bf16 copy of what several layers read; no
                  activation is kept, and bf16 does not round a young adapter's term away
    attention.py  a block of queries at a time, scores in fp32 and the rest in bf16; PyTorch's kernel computes
                  in fp32 and takes four times as long; the kept softmax saves a third of attention
    parallel.py   a chat on each core, each with a graph of its own: 1.0 s a row instead of 1.8

Imports torch and transformers only. Begin with `layers.py`.
"""
