"""The data plane: what the steps of a plan ask of it, and nftables' answer.

``changes`` are values, ``Kernel`` is what carries them out and reads back what is. nftables is the first data plane;
nothing outside ``nft*.py`` knows that.
"""
