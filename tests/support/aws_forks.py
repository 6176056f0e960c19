"""The aws command again and again in one process: imported and warmed up once, then a fork for each command.

Run by the interpreter that the command itself runs in; `aws_command` asks. A line of JSON says the words, the
environment, the folder and the files for what is printed; a line answers the exit status. The code is the command's
own, its start is not: that is most of what one costs (1.0 CPU-s, a fork 0.14).
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def main() -> None:
    import awscli.clidriver  # type: ignore[import-not-found]  # of another environment than the tests'

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        # To nobody: what a command imports on its way is there from now on.
        awscli.clidriver.create_clidriver().main(["ecr", "describe-registry", "--endpoint-url", "http://127.0.0.1:1"])
    _say("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _be(asked, awscli.clidriver.main)
        _say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _be(asked: dict[str, Any], command: Callable[[], int | None]) -> NoReturn:
    status = 255
    try:
        files = [os.open(os.devnull, os.O_RDONLY)]
        files += [os.open(asked[each], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for each in ("out", "err")]
        for place, file in enumerate(files):
            os.dup2(file, place)
        sys.stdin = open(os.devnull)  # noqa: SIM115  # it ends with the process
        models = os.environ["AWS_DATA_PATH"]  # which the command sets as it is imported
        os.environ.clear()
        os.environ.update(asked["environment"], AWS_DATA_PATH=models)
        os.chdir(asked["folder"])
        sys.argv = asked["words"]
        status = command() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
