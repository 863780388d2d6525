"""CPU kernels that give the same numbers up to rounding, with fewer copies and on all cores.

`layers.fast_layers` switches them on; a layer that fails its probe is not replaced. What each module gives:

    layers.py     RMS norms in fp32 with half of the passes over memory; decides what is replaced
    lora.py       LoRA layers and gated feed-forwards: layers with the same input share one bf16 copy; no
                  activation is kept, and bf16 does not round a young adapter's term away
    attention.py  a block of queries at a time, scores in fp32 and the rest in bf16; PyTorch's kernel computes
                  in fp32 and takes four times as long; the kept softmax saves a third of attention
    parallel.py   one chat per core, each with its own graph: 1.0 s per row instead of 1.8

Imports torch, PEFT and transformers only. Begin with `layers.py`.
"""
