"""The first code of a rank's process: it ties the process to its parent, and only then begins the
seconds in which torch is imported.
"""

from __future__ import annotations

import runpy
import sys

import msgspec

from formgate.engine.ranks.processes import FollowerLaunch, end_with

FOLLOWER = "formgate.engine.execution.follower"

if __name__ == "__main__":
    end_with(msgspec.json.decode(sys.argv[1], type=FollowerLaunch).parent)
    runpy.run_module(FOLLOWER, run_name="__main__", alter_sys=True)
