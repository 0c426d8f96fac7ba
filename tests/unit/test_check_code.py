"""Which operators a line of serialised TorchScript calls, and which calls were saved in training mode."""

import pytest

from pipeline.check.code import Line, Use, classes_in, lines_of, uses_in
from pipeline.check.trainmode import baked_in


def _uses(text: str) -> list[Use]:
    return list(uses_in(Line(path="code/__torch__.py", number=1, text=text)))


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        ("    x0 = torch.relu(x)", {"aten::relu"}),
        ("    return torch.add(torch.mul(x, 2), y, alpha=1)", {"aten::add", "aten::mul"}),
        ("    _0 = ops.prim.NumToTensor(torch.size(x, 0))", {"prim::NumToTensor", "aten::size"}),
        ("    kept = ops.torchvision.nms(boxes, scores, 0.5)", {"torchvision::nms"}),
        ("    if torch.__contains__(d, key):", {"aten::__contains__"}),
        ("    while torch.gt(n, 0):", {"aten::gt"}),
        ("    for i in range(torch.__range_length(0, n, 1)):", {"aten::__range_length"}),
        ("    i0 = torch.__derive_index(i, 0, 2)", {"aten::__derive_index"}),
        ("    with ops.profiler.enter(x) as y:", {"profiler::enter"}),
        ("    y : Optional[Tensor] = torch.detach(x)", {"aten::detach"}),
        ("    _0, _1, = torch.chunk(x, 2)", {"aten::chunk"}),
        ("    g = torch.autograd.grad([y], [x])", {"aten::grad"}),
        ("    torch.autograd.backward(y)", {"aten::backward"}),
        ('    x1 = (getattr(self, "0")).forward(torch.neg(x), )', {"aten::neg"}),
        ("    x2 = unchecked_cast(Tensor, torch._unwrap_optional(x))", {"aten::_unwrap_optional"}),
        ("    part = self.lambda; x3 = torch.tanh(x)", {"aten::tanh"}),
        ("    lambda0 = (self.lambda).forward(torch.sin(x), ops.acme.scale(x, 2.), )", {"aten::sin", "acme::scale"}),
    ],
)
def test_calls_are_found(text: str, operators: set[str]) -> None:
    assert {use.operator for use in _uses(text)} == operators


@pytest.mark.parametrize(
    "text",
    [
        "    n = int(x)",
        "    x0 = annotate(List[Tensor], [])",
        "    x1 = uninitialized(Tensor)",
        "    y = x[0]",
        '    message = "torch.nothing(1) and ops.none.such(2)"',
        '    lambda0 = self.lambda; s = \'torch.nothing(1)\'; t = "a\\" ops.none.such(2)"',
        "  def forward(self: __torch__.torch.nn.modules.linear.Linear,",
        "    _0 = __torch__.torch.nn.functional.dropout",
    ],
)
def test_what_is_no_operator_is_not_taken_for_one(text: str) -> None:
    assert _uses(text) == []


@pytest.mark.parametrize(
    "text", ["x = torch.relu(" * 20_000, "x = " + "-" * 60_000 + "torch.relu(x)", "torch" + ".a" * 30_000]
)
def test_lines_that_would_break_a_parser_are_survived(text: str) -> None:
    assert {use.operator for use in _uses(text)} <= {"aten::relu"}


def test_a_huge_literal_is_not_parsed_and_its_operator_still_found() -> None:
    uses = _uses("    x = torch.tensor([" + "1, " * 100_000 + "])")
    assert [(use.operator, use.call) for use in uses] == [("aten::tensor", None)]


def test_custom_classes_are_found() -> None:
    line = Line(path="", number=1, text="  packed : __torch__.torch.classes.quantized.LinearPackedParamsBase")
    assert list(classes_in(line)) == ["quantized.LinearPackedParamsBase"]


def test_functions_of_torchs_are_found_by_their_local_names_within_one_function() -> None:
    source = b"""class M(Module):
  def forward(self: __torch__.M,
    x: Tensor) -> Tensor:
    _0 = __torch__.torch.nn.functional.___torch_mangle_3.dropout
    y = _0(x, 0.5, True, False, )
    return __torch__.torch.nn.functional.rrelu(y, 0.125, 0.25, True, False, )
  def other(self: __torch__.M) -> Tensor:
    return _0(x, 0.5, True, False, )
"""
    uses = [use for line in lines_of("code/__torch__.py", source) for use in uses_in(line)]
    assert [(use.operator, use.line.number) for use in uses] == [
        ("torch.nn.functional.dropout", 5),
        ("torch.nn.functional.rrelu", 6),
    ]
    assert all(baked_in(use) for use in uses)
    torchs = [use for line in lines_of("code/__torch__/torch/nn/functional.py", source) for use in uses_in(line)]
    assert not any(baked_in(use) for use in torchs)


@pytest.mark.parametrize(
    ("text", "is_baked_in"),
    [
        ("torch.dropout(x, 0.5, True)", True),
        ("torch.dropout(x, 0.5, train=True)", True),
        ("torch.dropout_(x, 0.5, True)", True),
        ("torch.feature_alpha_dropout(x, 0.5, True)", True),
        ("torch.dropout(x, 0.5, False)", False),
        ("torch.dropout(x, 0., True)", False),
        ("torch.dropout(x, 0.5, training)", False),
        ("torch.rrelu(x, 0.125, 0.33, True, None)", True),
        ("torch.batch_norm(x, w, b, mean, var, True, 0.1, 1e-05, True)", True),
        ("torch.batch_norm(x, w, b, CONSTANTS.c0, CONSTANTS.c1, True, 0.1, 1e-05, True)", True),
        ("torch.batch_norm(x, w, b, mean, var, False, 0.1, 1e-05, True)", False),
        ("torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-05, True)", False),
        ("torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-05, True)", False),
        ("torch.instance_norm(x, None, None, mean, var, True, 0.1, 1e-05, True)", True),
        ("torch.lstm(x, [h, c], [w0, w1], True, 2, 0.5, True, False, False)", True),
        ("torch.lstm(x, [h, c], [w0, w1], True, 2, 0.5, False, True, True)", False),
        ("torch.lstm(x, [h, c], [w0, w1], True, 2, 0., True, True, True)", False),
        ("torch.lstm(data, sizes, [h, c], [w0, w1], True, 2, 0.5, True, True)", True),
        ("torch.relu(x)", False),
        ("torch.scaled_dot_product_attention(q, k, v, None, 0.25)", True),
        ("torch.scaled_dot_product_attention(q, k, v, None, 0.)", False),
        ("torch.scaled_dot_product_attention(q, k, v, None, dropout_p)", False),
        ("torch.scaled_dot_product_attention(q, k, v)", False),
        ("__torch__.torch.nn.functional.dropout(x, 0.5, training, False, )", False),
        ("__torch__.torch.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, 1e-05, )", False),
        ("__torch__.torch.nn.functional.batch_norm(x, mean, var, w, b, True, 0.1, 1e-05, )", True),
    ],
)
def test_training_mode_in_a_call(text: str, is_baked_in: bool) -> None:
    (use,) = _uses(f"    y = {text}")
    assert (baked_in(use) is not None) is is_baked_in
