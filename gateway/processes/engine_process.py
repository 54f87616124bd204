"""The engine process: reads its parameters from standard input, connects the grammar compiler to
the engine, and runs the engine's loop. It exits when its parent does, for whatever reason.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading

import msgspec
import zmq

from formgate.engine.errors import EngineStartError
from formgate.engine.hooks import ConstraintFactory, FillMasks
from formgate.engine.loop import run_engine_loop
from formgate.engine.messages import EngineFailed
from formgate.gateway.logs import set_up_logging
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.compile_worker import STACK_BYTES
from formgate.gateway.processes.engine_launch import EngineLaunch, end_with_parent
from formgate.gateway.processes.grammar_setup import grammar_compiler
from formgate.gateway.processes.heap_trimmer import HeapTrimmer

MAX_MASK_THREADS = 16
# On a CPU, oneDNN keeps 140 kB of code for each batch size of a layer, and torch's bridge to it
# another 260 kB. Their defaults, 1024 entries each, look like a memory leak.
FEWER_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
LINGER = 2000  # milliseconds to send the last message


def main() -> int:
    level, style = sys.argv[1:] or ("info", "text")
    # At level info, libraries log too much; show it only with a lower level.
    set_up_logging("warning" if level == "info" else level, style, process="engine: ")
    launch = EngineLaunch.decode(sys.stdin.buffer.readline())
    end_with_parent()
    for name, capacity in FEWER_PRIMITIVES.items():
        os.environ.setdefault(name, capacity)  # read at the first product
    try:
        tokenizer = load_tokenizer(launch.tokenizer_dir)
    except (OSError, ValueError) as error:
        _report(launch.event_address, f"The tokenizer cannot be used: {error}")
        return 1
    # Larger than a compile worker's stack: a constraint that it survived must not overflow here.
    threading.stack_size(4 * STACK_BYTES)

    def load_constraints() -> tuple[ConstraintFactory, FillMasks]:
        try:
            compiler = grammar_compiler(
                tokenizer,
                launch.config.model_dir,
                launch.config.structured_outputs_backend,
                for_masks=True,
            )
        except (OSError, ValueError) as error:
            raise EngineStartError(f"The tokenizer cannot be used: {error}") from error
        compiler.warm_up()
        HeapTrimmer().start()
        return compiler.factory, compiler.filler(min(os.cpu_count() or 1, MAX_MASK_THREADS))

    run_engine_loop(
        dataclasses.replace(launch.config, tokenizer_vocab_size=tokenizer.size),
        load_constraints,
        launch.command_address,
        launch.event_address,
        more_clients=launch.more_clients,
    )
    return 0


def _report(address: str, message: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as events:
        events.set(zmq.LINGER, LINGER)
        events.connect(address)
        events.send(msgspec.msgpack.encode(EngineFailed(message)))


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as ended:  # the engine has reported why
        status = int(ended.code or 0)
    logging.shutdown()
    sys.stderr.flush()
    # Not `sys.exit`: at exit, triton's bindings print pages about their own leaks.
    os._exit(status)
