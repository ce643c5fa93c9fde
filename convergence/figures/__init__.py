"""Figures, each a function of results alone: ``draw(layer, …) -> Drawing`` (a matplotlib figure, words and a table).

style.py    colours, sizes and the few helpers that make all figures look alike
overview.py all layers in one figure
layers.py   the figures of one layer
"""
