"""The base of every layer: an `nn.Module` without call overhead. torch's hook checks and two-step
attribute lookup take about 60 us per decoder layer on a laptop's CPU, as long as a small matrix
product.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class Layer(nn.Module):
    """Forward hooks never run. Parameters and sub-layers are set once, by plain assignment."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # torch keeps parameters and sub-layers in separate dicts, which `__getattr__` searches.
        self.__dict__[name] = value

    def finish_loading(self) -> None:
        """Called once when all weights are loaded, of the parts of a layer before the layer."""

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)
