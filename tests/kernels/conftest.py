"""Runs each kernel test under triton's interpreter on the CPU and, where there is one, compiled on
a CUDA device. The interpreter is put in place per test: triton reads TRITON_INTERPRET once, when
it is imported, and other tests of the same process may have imported it long before.
"""

import importlib
import sys

import pytest
import torch

tl = pytest.importorskip("triton.language")
# A first launch would import it, while the interpreter's functions are in place: it refuses them.
importlib.import_module("triton.experimental.gluon")
interpreter = importlib.import_module("triton.runtime.interpreter")
JITFunction = importlib.import_module("triton.runtime.jit").JITFunction

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


def _widened(handle):
    """The interpreter holds a bfloat16 as its bits, and its dot would multiply these."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype("uint32") << 16
    return interpreter.TensorHandle(bits.view("float32"), tl.float32)


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == "cpu":
        for name, module in list(sys.modules.items()):
            if name.startswith(("formgate.kernels.", "triton.language")):
                for attribute, value in list(vars(module).items()):
                    if isinstance(value, JITFunction):
                        monkeypatch.setattr(
                            module, attribute, interpreter.InterpretedFunction(value.fn)
                        )
        builder = interpreter.InterpreterBuilder
        dot = builder.create_dot
        monkeypatch.setattr(
            builder,
            "create_dot",
            lambda self, a, b, *rest: dot(self, _widened(a), _widened(b), *rest),
        )
    torch.manual_seed(0)
    return torch.device(request.param)


# Of a result of about 1, by type.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture
def assert_close():
    def check(actual, expected, dtype, scale=1.0):
        tolerance = TOLERANCES[dtype] * scale
        torch.testing.assert_close(
            actual.double().cpu(), expected.double().cpu(), atol=tolerance, rtol=tolerance
        )

    return check
