"""Training of nets, with bit-exact resume.

loop.py           train one net, or several nets jointly
trainer.py        one net in training: steps, state and metrics
objectives.py     the loss: of classes, or of next tokens
checkpoints.py    two generations of checkpoints with checksums, written in a thread
given_weights.py  import nets that are trained already
process_group.py  the processes that train a net together
"""
