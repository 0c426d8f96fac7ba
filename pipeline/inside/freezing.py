"""Freezes a program: weights and settings become constants that later optimisation can see."""

import torch
from torch.jit import ScriptModule

# A list or dict that becomes a constant is written into the archive's code as a literal. Reading such code back takes
# torch time that grows with the square of its length: a vocabulary of 1,000 words half a second, of 6,000 a dozen, and
# as much again at the first run. As attributes both take milliseconds.
_LARGEST_LITERAL = 100


def freeze(program: ScriptModule) -> ScriptModule:
    """The program in eval mode with all but large lists and dicts as constants.

    Raises:
        RuntimeError: torch cannot freeze it.
    """
    frozen: ScriptModule = torch.jit.freeze(program, preserved_attrs=_large(program))
    return frozen


def _large(program: ScriptModule) -> list[str]:
    """Where the large lists and dicts are, such as `tokeniser.vocabulary`."""
    found = []
    for path, module in program.named_modules():
        for name in module._concrete_type.get_attributes():
            value = module._c.getattr(name)
            if isinstance(value, list | dict) and len(value) > _LARGEST_LITERAL:
                found.append(f"{path}.{name}".lstrip("."))
    return sorted(found)
