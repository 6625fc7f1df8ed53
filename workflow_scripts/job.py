"""How an entry runs inside a Snakemake job: output goes to the job's log, a failure ends in one clear line."""

import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def job(snakemake):
    """Send stdout and stderr to the rule's log; on failure print rule, artefact, cause and log, and exit 1.

    The traceback is in the log, the last line on the terminal is for the person who must act.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(log, "w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        cause = " ".join(str(error).split()) or type(error).__name__
        os.write(terminal, f"{snakemake.rule}: {snakemake.output[0]}: {cause} (log: {log})\n".encode())
        raise SystemExit(1) from None
    finally:
        os.close(terminal)
