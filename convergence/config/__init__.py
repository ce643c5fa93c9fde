"""The config: its schema and its reader.

schema.py       an experiment: data, nets, activations and the sections below
nets.py         groups of nets, and the nets of a group
preparation.py  images prepared as the weights of the nets ask for
stages.py       the sections of training, statistics, analysis, pictures and report
functional.py   the sections of the functional experiments
layer_refs.py   layer references: the layers that a comparison joins
load.py         from a TOML file and overrides to a validated experiment
"""
