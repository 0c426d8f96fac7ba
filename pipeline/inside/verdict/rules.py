"""The names that the static analysis knows, and what each of its rules means."""

import re

# rule -> what to do about it
FIXES = {
    "branch-on-value": "torch.jit.script keeps it; where both sides are tensors, torch.where needs no branch",
    "branch-on-shape": "torch.jit.script keeps it; tracing keeps only the side that the example took",
    "branch-on-state": "Make forward() depend on its inputs alone: take the state as an input and return the new one",
    "loop-on-value": "torch.jit.script keeps it; tracing keeps as many rounds as the example had",
    "loop-on-shape": "torch.jit.script keeps it; tracing keeps as many rounds as the example had",
    "loop-on-state": "Make forward() depend on its inputs alone: take the state as an input and return the new one",
    "python-number": "Keep it a tensor; tracing writes down the number that the example had",
    "python-text": "Keep texts of the input's values out of forward(); tracing keeps the example's",
    "lookup": "Select with torch.index_select, torch.gather or tensor[index]; tracing keeps the example's entry",
    "foreign-call": "Compute it with torch; what is computed elsewhere is a constant in a trace",
    "try": "Test for the condition instead; neither scripting nor tracing keeps `try`",
    "random": "Remove it, or draw once in __init__ and register_buffer the result",
    "outside-world": "Pass it as an input; an archive must answer the same every time",
    "train-mode": "Let eval() reach it: do not override train(), and do not call it in forward()",
    "state": "Return the value or take it as an input; a served model runs in several threads and is restarted",
    "device-literal": "Write device=x.device; scripting keeps it, and the archive then follows its inputs",
    "device-baked": "Let torch.jit.script keep it, or register_buffer what is made there",
    "hook": "Call it in forward(); scripting and tracing treat hooks differently",
    "autograd-function": "Use its forward formula directly; a traced one cannot be saved",
    "unread-code": "Write it in a .py file, so that its branches can be read",
    "export-mode": "Let the model compute the same however it is run",
    "wide-number": "Keep it a tensor, or keep the product below 2**63; scripted whole numbers wrap around at 64 bits",
    "unscripted": "Write it so that it can be scripted; a scripted program raises an error there",
    "scripted-only": "Let the model compute the same however it is run",
    "checkpoint": "Call the function itself; neither a script nor a trace can be saved with it",
    "own-call": "Move it into forward(); an archive begins at forward()",
}

# What scripting gets wrong in a way that samples and probes need not show.
UNSCRIPTED = frozenset({"wide-number", "unscripted", "scripted-only", "own-call"})

RANDOM_FUNCTIONS = frozenset(
    [
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "randint_like",
        "bernoulli",
        "multinomial",
        "normal",
        "poisson",
        "rrelu",
        "alpha_dropout_",
        "dropout_",
        "gumbel_softmax",
        "fractional_max_pool2d",
        "fractional_max_pool3d",
    ]
)
DROPOUTS = frozenset(
    ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"]
)
RANDOM_METHODS = frozenset({"sample", "rsample"}) | frozenset(
    [
        "normal_",
        "uniform_",
        "bernoulli_",
        "bernoulli",
        "random_",
        "exponential_",
        "geometric_",
        "cauchy_",
        "log_normal_",
        "multinomial",
    ]
)
# torch's modules that are random in eval mode too.
RANDOM_LAYERS = frozenset({"FractionalMaxPool2d", "FractionalMaxPool3d"})
SEEDING = frozenset({"manual_seed", "seed", "fork_rng", "set_rng_state", "initial_seed"})
# Python modules whose answers come from chance, the clock or the machine.
RANDOM_MODULES = frozenset({"random", "_random", "secrets", "uuid"})
OUTSIDE_MODULES = frozenset({"time", "datetime", "os", "posix", "socket", "io", "_io", "subprocess", "_datetime"})

# Attributes and methods of a tensor that are sizes, and those that no input decides.
SIZES = frozenset({"shape", "size", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "__len__"})
SIZE_PYTHON = frozenset({"is_contiguous", "stride", "storage_offset"})
FIXED = frozenset(
    [
        "dtype",
        "device",
        "layout",
        "requires_grad",
        "is_cuda",
        "is_floating_point",
        "is_complex",
        "is_sparse",
        "is_quantized",
        "element_size",
        "get_device",
        "is_leaf",
        "is_nested",
        "is_inference",
        "is_mkldnn",
        "itemsize",
    ]
)
RANKS = frozenset({"dim", "ndim", "ndimension"})
NUMBERS = frozenset({"item", "tolist", "numpy", "__int__", "__float__", "__bool__", "__index__", "data_ptr"})
# In-place methods that overwrite what was there; every other one builds on it.
OVERWRITES = frozenset({"copy_", "fill_", "zero_", "set_"})
GROWS = frozenset({"append", "extend", "insert", "pop", "popleft", "appendleft", "remove", "clear", "update", "add"})
STRUCTURE = frozenset({"setdefault", "popitem", "discard", "sort", "reverse"}) | GROWS

# Builtins by what they do with an input-dependent argument.
CONVERTS = frozenset({"int", "float", "bool", "complex", "chr", "ord", "divmod", "hex", "bin", "oct", "hash"})
TEXTS = frozenset({"str", "repr", "format", "ascii"})
PASSES = frozenset({"list", "tuple", "reversed", "enumerate", "zip", "iter", "set", "frozenset", "dict"})
PLAIN = frozenset(
    [
        "isinstance",
        "issubclass",
        "type",
        "callable",
        "hasattr",
        "id",
        "super",
        "object",
        "property",
        "staticmethod",
        "classmethod",
        "vars",
        "dir",
        "globals",
        "locals",
        "slice",
    ]
)
TRANSPARENT = frozenset(
    {"functools", "itertools", "operator", "_operator", "_functools", "copy", "typing", "collections"}
)

DEVICE = re.compile(r"^(cpu|cuda|xpu|mps|hip|meta)(:\d+)?$")
EXPORT_MODE = frozenset({"is_scripting", "is_tracing", "_is_tracing", "is_in_onnx_export", "is_compiling"})
ANNOTATES = frozenset({"annotate", "cast"})
