"""What a fork of the forge does: it becomes the program that was asked for, as an interpreter would."""

import atexit
import os
import runpy
import signal
import sys
import threading
import traceback
from typing import Any


def become(request: dict[str, Any]) -> None:
    """Run the request's module to its end, in its environment and folder; does not return."""
    import transformers

    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    module, *words = request["words"]
    sys.argv = [module, *words]
    # New ones: those of the forge know what kind of files theirs were.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if module == "trainer" or words[:1] in (["train"], ["sweep"]):
        transformers.logging.set_verbosity_error()  # they say so in the environment, before they import it
    code = _run(module)
    for file in (sys.stdout, sys.stderr):
        if file is not None:  # a command drops its output when nobody reads on
            file.flush()
    os._exit(code)


def _run(module: str) -> int:
    """The module as the program, to its end; as an interpreter does it. Returns the exit code."""
    code: Any = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    return code or 0
