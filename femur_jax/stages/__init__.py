"""The stages of a single model's run.

A stage reads what the one before it left in the run directory:

    WORKDIR/config.json, checkpoints/, scalars.jsonl, events.out.tfevents...   train
    WORKDIR/synthetic/, MODEL_CARD.md                                          sample
    WORKDIR/evaluation.json                                                    evaluate
    WORKDIR/audit/, audit.json                                                 audit
"""
